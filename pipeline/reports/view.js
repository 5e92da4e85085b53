// Draws what data.js holds: tickets and ranks over the pictures, and where tickets lie. Asks no server for anything.
"use strict";
(function () {
  const data = window.DATALTT_VIEW;
  const [height, width] = data.grid;
  const numPatches = height * width;
  const byId = (id) => document.getElementById(id);
  const state = { show: "kept", view: 0, label: "" };
  let shown = []; // numbers of the images that the filter leaves
  let current = -1; // the one tile that the tab key reaches

  // ---- What the store says, decoded

  function bytesOf(text) {
    const raw = atob(text);
    return Uint8Array.from(raw, (c) => c.charCodeAt(0));
  }

  // Kept patches of a view, an array of booleans: bit p % 8 of byte p // 8.
  function maskOf(image, view) {
    const all = bytesOf(image.tickets);
    const first = view * Math.ceil(numPatches / 8);
    return Array.from({ length: numPatches }, (_, p) => ((all[first + (p >> 3)] >> (p & 7)) & 1) === 1);
  }

  function ranksOf(image, view) {
    const all = bytesOf(image.ranks);
    const size = data.rankBytes;
    return Array.from({ length: numPatches }, (_, p) => {
      const at = (view * numPatches + p) * size;
      return size === 1 ? all[at] : all[at] + 256 * all[at + 1];
    });
  }

  function className(label) {
    return label === null ? "no class" : data.classes[label];
  }

  const number = (value) => value.toLocaleString("en");

  function shortened(text, length) {
    if (text.length <= length) return text;
    const head = Math.floor((length - 1) / 3);
    return text.slice(0, head) + "…" + text.slice(text.length - (length - 1 - head));
  }

  // ---- Drawing

  const palette = data.colours.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  document.documentElement.style.setProperty("--bar", `linear-gradient(to right, ${data.colours.join(",")})`);

  function colour(share) {
    const at = Math.min(Math.max(share, 0), 1) * (palette.length - 1);
    const low = Math.min(Math.floor(at), palette.length - 2);
    return palette[low].map((c, i) => Math.round(c + (palette[low + 1][i] - c) * (at - low)));
  }

  // One pixel a patch, made large by the style sheet. `values` lie within [0, 1].
  function paint(canvas, values) {
    canvas.width = width;
    canvas.height = height;
    const pixels = new ImageData(width, height);
    values.forEach((value, p) => pixels.data.set([...colour(value), 255], 4 * p));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  const SVG = "http://www.w3.org/2000/svg";

  // Dropped patches, run by run of each row.
  function hatched(mask) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    let d = "";
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const start = x;
        while (x < width && !mask[y * width + x]) x++;
        if (x > start) d += `M${start} ${y}h${x - start}v1H${start}z`;
      }
    }
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    path.setAttribute("fill", "url(#hatch)");
    svg.append(path);
    return svg;
  }

  function heated(image, view) {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    paint(canvas, ranksOf(image, view).map((rank) => 1 - rank / Math.max(1, numPatches - 1)));
    return canvas;
  }

  function overlay(image, view, show) {
    if (show === "kept") return hatched(maskOf(image, view));
    return show === "heat" && image.ranks ? heated(image, view) : null;
  }

  // The inner half of the rows and columns is a quarter of the grid.
  function keptAndInTheMiddle(mask) {
    let inside = 0, all = 0;
    mask.forEach((kept, p) => {
      if (kept) all++;
      const y = Math.floor(p / width) + 0.5, x = (p % width) + 0.5;
      if (kept && y > height / 4 && y < (3 * height) / 4 && x > width / 4 && x < (3 * width) / 4) inside++;
    });
    return { all, share: Math.round((100 * inside) / all) };
  }

  function described(image, view) {
    const which = data.numViews > 1 ? `, view ${view + 1}` : "";
    const { all, share } = keptAndInTheMiddle(maskOf(image, view));
    const kept = `${all} of ${numPatches} patches kept, ${share} % of them in the middle quarter`;
    return `${image.key}, ${className(image.label)}${which}: ${kept}`;
  }

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // ---- Where tickets lie

  function drawMap(name, share, what) {
    const low = Math.min(...share), high = Math.max(...share);
    const canvas = byId(name);
    paint(canvas, share.map((s) => (high > low ? (s - low) / (high - low) : 0.5)));
    const percent = (s) => `${(100 * s).toFixed(0)} %`;
    const place = (p) => `row ${Math.floor(p / width) + 1}, column ${(p % width) + 1}`;
    byId(`${name}-low`).textContent = percent(low);
    byId(`${name}-high`).textContent = percent(high);
    const most = place(share.indexOf(high)), least = place(share.indexOf(low));
    canvas.setAttribute(
      "aria-label",
      `Heat map, ${what}: from ${percent(low)} (${least}) to ${percent(high)} (${most}) keep a position`
    );
  }

  function drawShownMap() {
    const sums = new Array(numPatches).fill(0);
    for (const i of shown) maskOf(data.images[i], state.view).forEach((kept, p) => (sums[p] += kept ? 1 : 0));
    const count = shown.length, view = data.numViews > 1 ? ` (view ${state.view + 1})` : "";
    const what = `${number(count)} image${count === 1 ? "" : "s"}${view}`;
    byId("map-shown-what").textContent = what;
    if (count) drawMap("map-shown", sums.map((s) => s / count), `the ${what} shown below`);
  }

  // ---- The gallery

  const tiles = data.images.map((image) => {
    const item = element("li");
    const button = element("button", "tile");
    button.type = "button";
    button.tabIndex = -1;
    button.title = image.key;
    const picture = element("span", "picture");
    const img = element("img");
    img.loading = "lazy";
    img.decoding = "async";
    picture.append(img);
    const label = element("span", "class", className(image.label));
    const key = element("span", "key", shortened(image.key, 34));
    for (const seen of [label, key]) seen.setAttribute("aria-hidden", "true"); // the picture's text says both
    button.append(picture, label, key);
    item.append(button);
    return { item, button, picture, img };
  });
  byId("gallery").append(...tiles.map((tile) => tile.item));
  if (data.pixelated) document.body.classList.add("pixelated");

  function drawTile(i) {
    const { picture, img } = tiles[i];
    while (picture.lastChild !== img) picture.lastChild.remove();
    const over = overlay(data.images[i], state.view, state.show);
    if (over) picture.append(over);
  }

  // Overlays are drawn as tiles come near the screen.
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        drawTile(Number(entry.target.dataset.number));
      }
    },
    { rootMargin: "800px" }
  );
  tiles.forEach((tile, i) => (tile.item.dataset.number = i));

  function redraw() {
    tiles.forEach((tile, i) => {
      const file = data.images[i].files[state.view];
      if (tile.img.getAttribute("src") !== file) {
        tile.img.src = file;
        tile.img.alt = described(data.images[i], state.view);
      }
      near.unobserve(tile.item);
      near.observe(tile.item);
    });
    byId("legend-kept").hidden = state.show !== "kept";
    if (byId("legend-heat")) byId("legend-heat").hidden = state.show !== "heat";
  }

  function filter() {
    shown = [];
    tiles.forEach((tile, i) => {
      const label = data.images[i].label;
      const fits = state.label === "" || String(label === null ? -1 : label) === state.label;
      tile.item.hidden = !fits;
      if (fits) shown.push(i);
    });
    const of = state.label === "" ? "" : ` of class ${className(state.label === "-1" ? null : Number(state.label))}`;
    byId("status").textContent = `${number(shown.length)} of ${number(data.images.length)} images shown${of}`;
    reach(shown.includes(current) ? current : shown[0]);
    drawShownMap();
  }

  function reach(i) {
    if (current >= 0) tiles[current].button.tabIndex = -1;
    current = i === undefined ? -1 : i;
    if (current >= 0) tiles[current].button.tabIndex = 0;
  }

  function columns() {
    const top = tiles[shown[0]].item.offsetTop;
    const next = shown.findIndex((i) => tiles[i].item.offsetTop > top);
    return next < 0 ? shown.length : next;
  }

  byId("gallery").addEventListener("keydown", (event) => {
    const at = shown.indexOf(current);
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
    const to = { Home: 0, End: shown.length - 1 }[event.key] ?? at + (steps[event.key] ?? NaN);
    if (Number.isNaN(to)) return;
    event.preventDefault();
    if (to < 0 || to >= shown.length) return;
    reach(shown[to]);
    tiles[current].button.focus();
  });

  // ---- One image, enlarged

  const zoom = byId("zoom");

  function panel(image, view, show, caption) {
    const figure = element("figure");
    const picture = element("span", "picture");
    const img = element("img");
    img.src = image.files[view];
    img.alt = show === "kept" ? described(image, view) : caption;
    picture.append(img);
    const over = overlay(image, view, show);
    if (over) picture.append(over);
    figure.append(picture, element("figcaption", "", caption));
    return figure;
  }

  function boxText(image, view) {
    const [y, x, h, w, flip] = image.views[view];
    const percent = (value) => `${(100 * value).toFixed(0)} %`;
    const across = `${percent(x)} to ${percent(x + w)} from the left`;
    const down = `${percent(y)} to ${percent(y + h)} from the top`;
    return `${across}, ${down}${flip ? ", mirrored" : ""}`;
  }

  function drawZoom() {
    const image = data.images[current];
    byId("zoom-key").textContent = image.key;
    const at = shown.indexOf(current);
    byId("zoom-place").textContent = `Image ${number(at + 1)} of ${number(shown.length)}, ${className(image.label)}`;
    byId("previous").disabled = at === 0;
    byId("next").disabled = at === shown.length - 1;
    const parts = [];
    for (let view = 0; view < data.numViews; view++) {
      if (data.numViews > 1) parts.push(element("h3", "", `View ${view + 1}`));
      const panels = element("div", "panels");
      panels.append(panel(image, view, "plain", "As the selector saw it"), panel(image, view, "kept", "Kept patches"));
      if (image.ranks) panels.append(panel(image, view, "heat", "Ranks: bright is most informative"));
      parts.push(panels);
      if (image.views) parts.push(element("p", "note", `Shows ${boxText(image, view)}.`));
    }
    byId("zoom-views").replaceChildren(...parts);
    const facts = [
      ["class", className(image.label) + (image.label === null ? "" : ` (${image.label})`)],
      ["image", `${image.size[0]} × ${image.size[1]} px`],
      ["shard", image.shard],
      ["row", String(image.row)],
    ];
    byId("zoom-facts").replaceChildren(...facts.flatMap(([dt, dd]) => [element("dt", "", dt), element("dd", "", dd)]));
  }

  function step(by) {
    const to = shown[shown.indexOf(current) + by];
    if (to === undefined) return;
    const focused = document.activeElement;
    reach(to);
    drawZoom();
    zoom.scrollTop = 0;
    if (focused && focused.disabled) byId("zoom-key").focus();
  }

  byId("gallery").addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (!item) return;
    reach(Number(item.dataset.number));
    drawZoom();
    zoom.showModal();
    byId("zoom-key").focus();
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => zoom.close());
  zoom.addEventListener("click", (event) => event.target === zoom && zoom.close());
  zoom.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  zoom.addEventListener("close", () => current >= 0 && tiles[current].button.focus());

  // ---- Controls

  function fillClasses() {
    const counts = new Map();
    for (const image of data.images) counts.set(image.label, (counts.get(image.label) ?? 0) + 1);
    const named = [...counts].sort((a, b) => className(a[0]).localeCompare(className(b[0])));
    byId("class").append(new Option(`all (${number(data.images.length)})`, ""));
    for (const [label, count] of named) {
      byId("class").append(new Option(`${className(label)} (${number(count)})`, String(label === null ? -1 : label)));
    }
  }

  fillClasses();
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").addEventListener("change", (event) => {
    if (event.target.name === "show") state.show = event.target.value;
    if (event.target.id === "view") state.view = Number(event.target.value);
    if (event.target.id === "class") state.label = event.target.value;
    if (event.target.id === "view") drawShownMap();
    if (event.target.id === "class") filter();
    redraw();
  });
  drawMap("map-store", data.share, "all images of the store");
  filter();
  redraw();
})();
