"""The files that start a configuration: look at them, copy them, save them."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.syntax import Syntax
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, ScrollableContainer, Vertical
from textual.screen import Screen
from textual.widgets import Footer, Label, OptionList, Static

from tui.latest import Answered, Latest
from tui.program import LaunchFiles, Program, Refused
from tui.save_dialog import SaveDialog

if TYPE_CHECKING:
    from planner.plan import Candidate, Plan

LEXERS: Final = {
    ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".md": "markdown", ".service": "ini", ".json": "json",
}  # fmt: skip
HELP: Final = """\
The files that start the configuration chosen on the plan screen. README.md says what to run where.

  Tab, Shift+Tab    formats, files, text
  Up, Down          choose a format or a file, or scroll its text
  C                 copy the file shown to the clipboard of your terminal (OSC 52; tmux needs `set-clipboard on`)
  S                 save all files of this format into a folder
  Escape            back to the plan
"""


class LaunchScreen(Screen[None]):
    """Formats and files on the left, the text on the right."""

    AUTO_FOCUS = "#formats"
    HELP_TEXT: ClassVar[str] = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        Binding("c", "copy", "Copy file"),
        Binding("s", "save", "Save all"),
    ]

    def __init__(self, program: Program, plan: Plan, candidate: Candidate, title: str) -> None:
        super().__init__()
        self._program, self._plan, self._candidate, self._title = program, plan, candidate, title
        self._latest: Latest[LaunchFiles] = Latest(self)
        self._files: dict[str, str] = {}
        self._kind = program.formats[0]

    def compose(self) -> ComposeResult:
        """What is started in a line, then formats, files and text."""
        yield Static(Text(self._title, no_wrap=True, overflow="ellipsis"), id="title")
        with Horizontal(id="body"):
            with Vertical(id="files-panel"):
                yield Label("Format", classes="section")
                yield OptionList(*self._program.formats, id="formats", compact=True, markup=False)
                yield Label("Files", classes="section")
                yield OptionList(id="files", compact=True, markup=False)
            with Vertical(id="result"):
                yield Static(id="status")
                with ScrollableContainer(id="text"):
                    yield Static(id="file", classes="view")
        yield Footer(compact=True)

    @on(OptionList.OptionHighlighted, "#formats")
    def _format(self, event: OptionList.OptionHighlighted) -> None:
        kind = self._kind = self._program.formats[event.option_index]
        launch_files = self._program.launch_files
        self._files = {}
        self._latest.ask(lambda alive: launch_files(self._plan, self._candidate, kind))

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not event.is_newest:
            return
        listed, status = self.query_one("#files", OptionList), self.query_one("#status", Static)
        listed.clear_options()
        try:
            found = cast(LaunchFiles, event.value())
        except Refused as refusal:
            self._files = {}
            status.update(Text(str(refusal), style="red"))
            self.query_one("#file", Static).update("")
            return
        self._files = found.files
        status.update(Text("\n".join(found.remarks), style="yellow"))
        status.display = bool(found.remarks)
        listed.add_options(list(found.files))
        listed.highlighted = 0

    @on(OptionList.OptionHighlighted, "#files")
    def _file(self, event: OptionList.OptionHighlighted) -> None:
        name = list(self._files)[event.option_index] if event.option_index < len(self._files) else ""
        if name:
            self._draw(name)

    def _draw(self, name: str) -> None:
        text = self._files[name]
        theme = "ansi_dark" if self.app.current_theme.dark else "ansi_light"
        lexer = LEXERS.get(PurePath(name).suffix, "text")
        shown = self.query_one("#file", Static)
        shown.styles.min_width = max((len(line) for line in text.splitlines()), default=0) + 1
        shown.update(Syntax(text, lexer, theme=theme, background_color="default"))
        self.query_one("#text").scroll_home(animate=False)

    def _shown(self) -> str | None:
        place = self.query_one("#files", OptionList).highlighted
        return list(self._files)[place] if place is not None and place < len(self._files) else None

    def action_copy(self) -> None:
        """The text shown, by OSC 52, which the terminal may not allow."""
        name = self._shown()
        if name is not None:
            self.app.copy_to_clipboard(self._files[name])
            self.notify(f"{name} was sent to the terminal's clipboard", markup=False)

    def action_save(self) -> None:
        """All files of the format, into a folder."""
        files = self._files
        if not files:
            return
        place = f"{self._plan.model.id}-{self._candidate.engine.name}-{self._kind}".replace("/", "-")

        def saved(line: str | None) -> None:
            if line:
                self.notify(line, markup=False)

        title = f"Save {len(files)} files into the folder"
        dialog = SaveDialog(title, place, lambda folder, over: self._program.save(folder, files, over))
        self.app.push_screen(dialog, saved)
