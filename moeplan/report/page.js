"use strict";
(() => {
  // Without the library the figures of every chart stand in their tables.
  if (typeof Plotly === "undefined") {
    document.documentElement.dataset.charts = "missing";
    return;
  }
  const config = { displayModeBar: false, showTips: false, doubleClick: false, staticPlot: false };
  const charts = JSON.parse(document.getElementById("charts").textContent);

  // With a view box a picture follows the width of the paper.
  const fit = (place) => {
    for (const picture of place.querySelectorAll(".main-svg")) {
      const width = picture.getAttribute("width"), height = picture.getAttribute("height");
      if (width && height) picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    }
  };

  // Narrow screens have axes of their own, and what is written in bars for wide ones is left out.
  const NARROW = 520;
  const suited = (figure, width) => {
    const narrow = width < NARROW;
    for (const trace of figure.data) if (trace.meta === "wide") trace.visible = !narrow;
    const layout = structuredClone(figure.layout);
    if (narrow) for (const [axis, more] of Object.entries(figure.narrow)) Object.assign(layout[axis], more);
    layout.width = width;
    return layout;
  };

  const draw = async (name, figure) => {
    const place = document.getElementById(`plot-${name}`);
    const picture = place.parentElement;
    picture.hidden = false;
    try {
      await Plotly.newPlot(place, figure.data, suited(figure, place.clientWidth), config);
    } catch (error) {
      picture.hidden = true;
      throw error;
    }
    place.on("plotly_afterplot", () => fit(place));
    fit(place);
    const chart = place.closest("figure");
    chart.classList.add("drawn");
    chart.querySelector("details").open = false;
    let width = place.clientWidth;
    new ResizeObserver(() => {
      if (place.clientWidth === width || place.clientWidth === 0 || matchMedia("print").matches) return;
      width = place.clientWidth;
      Plotly.react(place, figure.data, suited(figure, width), config);
    }).observe(place);
  };

  for (const code of document.querySelectorAll(".command pre")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    code.before(button);
  }

  Promise.allSettled(Object.entries(charts).map(([name, figure]) => draw(name, figure))).then((ended) => {
    document.documentElement.dataset.charts = ended.every((one) => one.status === "fulfilled") ? "drawn" : "failed";
    for (const one of ended) if (one.status === "rejected") console.error(one.reason);
  });
})();
