"use strict";
(() => {
  // Without the library the figures of every chart stand in their tables.
  if (typeof Plotly === "undefined") return;
  const config = { displayModeBar: false, showTips: false, doubleClick: false, staticPlot: false };
  const charts = JSON.parse(document.getElementById("charts").textContent);

  // With a view box a picture follows the width of the paper.
  const fit = (place) => {
    for (const picture of place.querySelectorAll(".main-svg")) {
      const width = picture.getAttribute("width"), height = picture.getAttribute("height");
      if (width && height) picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    }
  };

  const draw = async (name, figure) => {
    const place = document.getElementById(`plot-${name}`);
    place.hidden = false;
    try {
      await Plotly.newPlot(place, figure.data, figure.layout, config);
    } catch (error) {
      place.hidden = true;
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
      Plotly.Plots.resize(place);
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
