"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  /* Elements */
  function element(name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function shape(name, properties, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const text = (value) => (Array.isArray(value) ? value.join(" ") || "none" : String(value));

  /* Tables: sorting by any column, numbers as numbers, what has none last */
  const leading = (cell) => {
    const found = /^[+−-]?\d[\d.,]*/.exec(cell.textContent.trim());
    return found ? Number(found[0].replace("−", "-").replaceAll(",", "")) : NaN;
  };
  const empty = (cell) => ["", "–"].includes(cell.textContent.trim());

  function isNumeric(rows, column) {
    const cells = rows.map((row) => row.cells[column]).filter((cell) => !empty(cell));
    return cells.length > 0 && cells.every((cell) => !Number.isNaN(leading(cell)));
  }

  function compareCells(a, b, numeric) {
    if (numeric) return leading(a) - leading(b);
    return a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  }

  function sortBy(table, column, numeric) {
    const heading = table.tHead.rows[0].cells[column];
    const way = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", way);
    const sign = way === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].sort((x, y) => {
      const [a, b] = [x.cells[column], y.cells[column]];
      return empty(a) - empty(b) || sign * compareCells(a, b, numeric);
    });
    table.tBodies[0].append(...rows);
  }

  function makeSortable(table) {
    const rows = [...table.tBodies[0].rows];
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const numeric = isNumeric(rows, column);
      if (numeric) rows.forEach((row) => row.cells[column].classList.add("number"));
      const button = element("button", { type: "button" }, heading.textContent);
      button.addEventListener("click", () => sortBy(table, column, numeric));
      heading.replaceChildren(button);
    });
  }

  /* Filtering: every word must occur */
  function filter(words) {
    const things = [...document.querySelectorAll("main > section > .scroll tbody tr, details[data-run]")];
    let shown = 0;
    for (const thing of things) {
      const content = (thing.dataset.text ??= thing.textContent.toLowerCase());
      thing.hidden = !words.every((word) => content.includes(word));
      shown += !thing.hidden;
    }
    document.getElementById("shown").textContent = words.length ? `${shown} of ${things.length}` : "";
  }

  /* Curves */
  const STYLES = [["#00224e", ""], ["#b8860b", "6 4"], ["#555", "2 3"], ["#999", "8 3 2 3"]];

  function ticks(low, high) {
    const step = 10 ** Math.floor(Math.log10((high - low) / 2 || 1));
    const wide = [1, 2, 5, 10].map((k) => k * step).find((k) => (high - low) / k <= 5);
    const first = Math.ceil(low / wide - 1e-9);
    return Array.from({ length: Math.floor(high / wide + 1e-9) - first + 1 }, (_, i) => +((first + i) * wide).toPrecision(6));
  }

  const DECADES = 1.5; // a range of so many powers of ten gets ticks at powers of ten

  function logarithmicTicks(low, high) {
    if (high - low < DECADES) return ticks(10 ** low, 10 ** high).filter((tick) => tick > 0);
    const every = Math.ceil((high - low) / 6);
    const first = Math.ceil(low);
    return Array.from({ length: Math.floor((high - first) / every) + 1 }, (_, i) => 10 ** (first + i * every));
  }

  const written = (tick) => (tick >= 1e5 || (tick > 0 && tick < 1e-3) ? tick.toExponential() : String(tick));

  function chart(title, series, logarithmic = false) {
    const scale = logarithmic ? Math.log10 : (value) => value;
    const [width, height, left, right, top, bottom] = [440, 270, 52, 12, 26, 58];
    const points = series.flatMap((one) => one.points);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": title });
    svg.append(shape("text", { x: left, y: 16, "font-weight": "600" }, title));
    if (!points.length) {
      svg.append(shape("text", { x: left, y: 60 }, "nothing recorded"));
      return svg;
    }
    const span = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const margin = (high - low) * 0.06 || 0.5;
      return [low - margin, high + margin];
    };
    const [x0, x1] = span(points.map((point) => point[0]));
    const [y0, y1] = span(points.map((point) => scale(point[1])));
    const x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right);
    const y = (value) => height - bottom - ((scale(value) - y0) / (y1 - y0)) * (height - top - bottom);
    for (const tick of logarithmic ? logarithmicTicks(y0, y1) : ticks(y0, y1)) {
      svg.append(shape("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), stroke: "#ddd" }));
      svg.append(shape("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, written(tick)));
    }
    for (const tick of ticks(x0, x1).filter(Number.isInteger)) {
      svg.append(shape("text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle" }, tick));
    }
    svg.append(shape("text", { x: width - right, y: height - bottom + 30, "text-anchor": "end" }, "epoch"));
    series.forEach((one, i) => {
      const [stroke, dash] = STYLES[i % STYLES.length];
      const path = one.points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ");
      svg.append(shape("polyline", { points: path, fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": dash }));
      one.points.forEach(([a, b]) => svg.append(shape("circle", { cx: x(a), cy: y(b), r: 2.5, fill: stroke })));
      const at = left + (i % 2) * 160;
      const row = height - 18 + Math.floor(i / 2) * 14;
      svg.append(shape("line", { x1: at, x2: at + 26, y1: row - 4, y2: row - 4, stroke, "stroke-width": 2, "stroke-dasharray": dash }));
      svg.append(shape("text", { x: at + 32, y: row }, one.name));
    });
    return svg;
  }

  const charts = (...children) => element("div", { class: "charts" }, ...children);
  const curve = (run, key) => run.rows.filter((row) => key in row).map((row) => [row.epoch, row[key]]);

  /* One run */
  function pairs(caption, values) {
    const rows = Object.entries(values).map(([key, value]) => element("tr", {}, element("td", {}, key), element("td", {}, text(value))));
    const table = element("table", {}, element("caption", {}, caption), element("tbody", {}, ...rows));
    return element("div", { class: "scroll" }, table);
  }

  function fill(details) {
    const run = data.runs[details.dataset.run];
    const split = run.metric.replace("val/", "train/");
    const shown = (key, trained) => [
      { name: "validation", points: curve(run, key) },
      { name: "training", points: curve(run, trained) },
    ];
    details.append(
      charts(chart(run.metric.replace("val/", "") + " (%)", shown(run.metric, split)), chart("loss, logarithmic", shown("val/loss", "train/loss"), true)),
      pairs("Recipe", run.settings),
      pairs("Environment", run.environment),
    );
  }

  /* Two runs */
  function differing(a, b) {
    const names = [...new Set([...Object.keys(a.settings), ...Object.keys(b.settings)])];
    return names.filter((name) => JSON.stringify(a.settings[name]) !== JSON.stringify(b.settings[name]));
  }

  function differenceTable(a, b) {
    const names = differing(a, b);
    if (!names.length) return element("p", {}, "No setting differs.");
    const head = element("tr", {}, ...["setting", "A", "B"].map((name) => element("th", { scope: "col" }, name)));
    const rows = names.map((name) =>
      element("tr", {}, ...[name, text(a.settings[name]), text(b.settings[name])].map((cell) => element("td", {}, cell))),
    );
    const table = element("table", {}, element("caption", {}, "Settings that differ"), element("thead", {}, head), element("tbody", {}, ...rows));
    return element("div", { class: "scroll" }, table);
  }

  function significance(a, b) {
    if (a.group === b.group) return "Both runs are of one group: they differ by nothing but the seed, so there is nothing to test.";
    const [low, high] = [a.group, b.group].sort((x, y) => x - y);
    const sentence = data.differences[`${low}-${high}`];
    if (!sentence) return "No test: it needs two finished runs of each kind (other seeds of the same settings), of one recipe.";
    return `All seeds of ${a.group === low ? "A's" : "B's"} settings less all seeds of ${a.group === low ? "B's" : "A's"}: ${sentence}`;
  }

  function compare() {
    const [a, b] = ["first", "second"].map((id) => data.runs[document.getElementById(id).value]);
    const both = (key) => [
      { name: "A", points: curve(a, key) },
      { name: "B", points: curve(b, key) },
    ];
    document.getElementById("comparison").replaceChildren(
      differenceTable(a, b),
      charts(chart(a.metric.replace("val/", "validation ") + " (%)", both(a.metric)), chart("validation loss, logarithmic", both("val/loss"), true)),
      element("p", { id: "significance" }, significance(a, b)),
    );
  }

  function offerRuns() {
    for (const id of ["first", "second"]) {
      const select = document.getElementById(id);
      data.runs.forEach((run, index) => select.append(element("option", { value: index }, run.path)));
      select.addEventListener("change", compare);
    }
    const other = data.runs.findIndex((run) => run.group !== data.runs[0].group);
    document.getElementById("second").value = other > 0 ? other : Math.min(1, data.runs.length - 1);
    compare();
  }

  document.querySelectorAll("main > section > .scroll > table").forEach(makeSortable);
  document.querySelectorAll("details[data-run]").forEach((details) => {
    details.addEventListener("toggle", () => details.childElementCount === 1 && fill(details));
  });
  document.getElementById("filter").addEventListener("input", (event) => {
    filter(event.target.value.toLowerCase().split(/\s+/).filter(Boolean));
  });
  if (data.runs.length) offerRuns();
  else document.getElementById("compare").hidden = true;
})();
