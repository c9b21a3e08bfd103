// What moves on the page: the theme, sorted tables, the slider between pictures, curves linked to frames.
// Everything it shows is in the page's own JSON; it asks nothing of a network.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /** An element with attributes and children; texts stay texts. */
  function make(name, attributes = {}, ...children) {
    const drawn = ["svg", "path", "line", "rect", "circle", "text"].includes(name);
    const node = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function format(value, digits = 4) {
    if (value == null) return "—";
    const size = Math.abs(value);
    const behind = size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 || size === 0 ? 3 : digits;
    return value.toFixed(behind).replace("-", "−");
  }

  // ------------------------------------------------------------------------------------------------------- theme

  function startTheme(button) {
    const names = ["auto", "light", "dark"];
    let stored = null;
    try { stored = localStorage.getItem("facepipe-theme"); } catch { /* a page from a file may not remember */ }
    const show = (name) => {
      if (name === "auto") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = name;
      button.textContent = `Theme: ${name}`;
      button.dataset.name = name;
    };
    button.addEventListener("click", () => {
      const next = names[(names.indexOf(button.dataset.name) + 1) % names.length];
      show(next);
      try { localStorage.setItem("facepipe-theme", next); } catch { /* see above */ }
    });
    show(names.includes(stored) ? stored : "auto");
  }

  // ------------------------------------------------------------------------------------------------------ tables

  function sortable(table) {
    const body = table.tBodies[0];
    const buttons = [...table.querySelectorAll("thead button")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const head = button.closest("th");
        const down = head.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[head.cellIndex]) }));
        rows.sort((a, b) => compare(a.key, b.key, down));
        body.append(...rows.map(({ row }) => row));
      });
    }
  }

  function keyOf(cell) {
    const holder = cell.dataset.value != null ? cell : cell.querySelector("[data-value]");
    if (holder) return Number(holder.dataset.value);
    const text = cell.textContent.trim();
    return text === "" || text === "—" ? null : text;
  }

  /** What is not known comes last, whichever way. */
  function compare(a, b, down) {
    if (a == null || b == null) return (a == null) - (b == null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return down ? -order : order;
  }

  // ----------------------------------------------------------------------------------------------------- choices

  /** Buttons of which one is chosen; one stop of the Tab key, arrows go between them. */
  function choice(name, kind, items, chosen, onChange) {
    const buttons = items.map((item) => make("button", { type: "button", role: "radio", "aria-label": item.label }, ...item.content));
    const group = make("div", { class: kind, role: "radiogroup", "aria-label": name }, ...buttons);
    const choose = (index, focus) => {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-checked", i === index);
        button.tabIndex = i === index ? 0 : -1;
      });
      if (focus) buttons[index].focus();
      onChange(items[index].value);
    };
    buttons.forEach((button, i) => button.addEventListener("click", () => choose(i, true)));
    group.addEventListener("keydown", (event) => {
      const now = buttons.indexOf(document.activeElement);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = event.key === "Home" ? 0 : event.key === "End" ? buttons.length - 1 : step ? now + step : null;
      if (next == null || now < 0) return;
      event.preventDefault();
      choose((next + buttons.length) % buttons.length, true);
    });
    choose(chosen, false);
    return group;
  }

  function selector(words, names, chosen, onChange) {
    const options = names.map((name, i) => make("option", { value: i }, name));
    const select = make("select", { "aria-label": words }, ...options);
    select.value = chosen;
    select.addEventListener("change", () => onChange(Number(select.value)));
    return make("span", {}, `${words} `, select);
  }

  const TITLES = { target: "Target", swapped: "Swap" };
  const titled = (name) => TITLES[name] ?? name;

  // ------------------------------------------------------------------------------------------ before and after

  function startLooks(root) {
    const looks = data.clips.flatMap((clip) => clip.looks.map((look) => ({ ...look, clip: clip.name })));
    if (!looks.length) return;
    const names = [...new Set(looks.flatMap((look) => Object.keys(look.whole)))];
    const state = { look: looks[0], left: 0, right: Math.min(1, names.length - 1), view: "whole" };
    const left = make("img", { class: "left", draggable: "false" });
    const right = make("img", { class: "right", draggable: "false" });
    const range = make("input", { type: "range", min: 0, max: 100, step: 1, value: 50 });
    const tags = [make("span", { class: "tag left-tag" }), make("span", { class: "tag right-tag" })];
    const handle = make("div", { class: "handle" });
    const box = make("div", { class: "look" }, left, right, ...tags, handle, range);
    const where = make("span", { class: "where", "aria-live": "polite" });

    const cut = () => {
      box.style.setProperty("--cut", `${range.value}%`);
      range.setAttribute("aria-valuetext", `${range.value} % ${titled(names[state.left])}, the rest ${titled(names[state.right])}`);
    };
    const show = () => {
      const { look } = state;
      const images = state.view === "face" && Object.keys(look.face).length ? look.face : look.whole;
      const shown = [names[state.left], names[state.right]].map((name) => images[name] ?? Object.values(images)[0]);
      box.classList.toggle("single", Object.keys(images).length < 2);
      [left, right].forEach((image, i) => {
        image.src = shown[i];
        image.alt = `${titled(names[i ? state.right : state.left])}, frame ${look.frame} of ${look.clip}`;
      });
      tags[0].textContent = titled(names[state.left]);
      tags[1].textContent = titled(names[state.right]);
      range.setAttribute("aria-label", `How much of ${titled(names[state.left])} is shown`);
      where.textContent = `${data.clips.length > 1 ? `${look.clip}, ` : ""}frame ${look.frame} · ${look.seconds.toFixed(2)} s`;
      cut();
    };
    range.addEventListener("input", cut);
    left.addEventListener("load", () => box.style.setProperty("--aspect", left.naturalWidth / left.naturalHeight));

    const controls = make("div", { class: "controls" });
    if (names.length > 2) {
      controls.append(
        selector("Left", names.map(titled), state.left, (i) => { state.left = i; show(); }),
        selector("Right", names.map(titled), state.right, (i) => { state.right = i; show(); }),
      );
    }
    if (looks.some((look) => Object.keys(look.face).length)) {
      const views = [["whole", "Whole frame"], ["face", "Face"]];
      const items = views.map(([value, label]) => ({ value, label, content: [label] }));
      controls.append(choice("What is shown", "choice", items, 0, (view) => { state.view = view; show(); }));
    }
    controls.append(where);
    const film = looks.map((look) => {
      const images = Object.keys(look.face).length ? look.face : look.whole;
      const image = make("img", { src: images.swapped ?? Object.values(images).at(-1), alt: "", draggable: "false" });
      return { value: look, label: `${look.clip}, frame ${look.frame}`, content: [image, String(look.frame)] };
    });
    root.append(controls, box, choice("Frame", "film", film, 0, (look) => { state.look = look; show(); }));
  }

  // ------------------------------------------------------------------------------------------------------ curves

  const HEIGHT = 104, LEFT = 46, RIGHT = 6, TOP = 6;

  function ticks(low, high, count) {
    const power = 10 ** Math.floor(Math.log10((high - low) / count));
    const fits = (step) => Math.floor(high / step + 1e-9) - Math.ceil(low / step - 1e-9) + 1;
    const step = [10, 5, 2.5, 2, 1, 0.5].map((n) => n * power).find((step) => fits(step) >= count);
    const found = [];
    for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) found.push(Number(tick.toPrecision(12)));
    return found;
  }

  function extent(curves) {
    const known = curves.flatMap((curve) => curve.values).filter((value) => value != null);
    let low = Math.min(...known), high = Math.max(...known);
    if (high - low < 1e-9 * Math.max(1, Math.abs(high))) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
    const room = (high - low) * 0.06;
    return [low - room, high + room];
  }

  /** The path of a curve; where more than three times the usual distance was not measured, it is broken. */
  function pathOf(frames, values, x, y) {
    const known = values.flatMap((value, i) => (value == null ? [] : [i]));
    const gaps = known.slice(1).map((i, n) => frames[i] - frames[known[n]]).sort((a, b) => a - b);
    const widest = 3 * (gaps[gaps.length >> 1] ?? 1);
    return known.map((i, n) => {
      const far = n === 0 || frames[i] - frames[known[n - 1]] > widest;
      return `${far ? "M" : "L"}${x(frames[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
    }).join("");
  }

  const swatch = (kind) => make("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, make("path", { d: "M0 4H22", class: `curve k-${kind}` }));
  const key = (curve) => make("span", { class: "key" }, swatch(curve.kind), curve.name);

  /** One group of curves; returns its element and what moves its cursor. */
  function drawPanel(panel, clip, options) {
    const { frames } = clip;
    const { width } = options, bottom = options.axis ? 20 : 5;
    const first = options.training ? Math.min(0, frames[0]) : 0;
    const last = Math.max(options.training ? frames.at(-1) : clip.total - 1, first + 1);
    const [low, high] = extent(panel.curves);
    const x = (frame) => LEFT + ((frame - first) / (last - first)) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP);
    const words = `${panel.title}, ${panel.unit}: ${panel.curves.map((curve) => {
      const known = curve.values.filter((value) => value != null).sort((a, b) => a - b);
      return `${curve.name} median ${format(known[known.length >> 1])}`;
    }).join(", ")}`;
    const svg = make("svg", { viewBox: `0 0 ${width} ${HEIGHT + bottom}`, role: "img", "aria-label": words });
    const rect = (a, b, kind) => make("rect", { x: x(a - 0.5), width: Math.max(1, x(b + 0.5) - x(a - 0.5)), y: TOP, height: HEIGHT - TOP, class: kind });
    if (clip.held_out != null) {
      svg.append(rect(clip.held_out, last, "held"));
      if (options.first) svg.append(make("text", { x: width - RIGHT - 4, y: TOP + 11, "text-anchor": "end" }, "held out"));
    }
    for (const [a, b] of clip.untouched ?? []) svg.append(rect(a, b, "untouched"));
    for (const tick of ticks(low, high, 3)) {
      svg.append(make("line", { x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick), class: "grid" }),
        make("text", { x: LEFT - 7, y: y(tick) + 3.5, "text-anchor": "end" }, String(tick).replace("-", "−")));
    }
    if (options.axis) svg.append(...axis(clip, first, last, x, options.training));
    for (const curve of panel.curves) {
      svg.append(make("path", { d: pathOf(frames, curve.values, x, y), class: `curve k-${curve.kind}` }));
      if (frames.length <= 30) curve.values.forEach((value, i) => {
        if (value != null) svg.append(make("circle", { cx: x(frames[i]), cy: y(value), r: 3.2, class: `dot k-${curve.kind}` }));
      });
    }
    const line = make("line", { y1: TOP, y2: HEIGHT, class: "cursor" });
    const dots = panel.curves.map((curve) => make("circle", { r: 4, class: `dot k-${curve.kind}` }));
    if (!options.training) svg.append(line, ...dots);
    const head = make("p", { class: "panel-head" }, make("strong", {}, panel.title), make("span", { class: "unit" }, panel.unit),
      ...(panel.curves.length > 1 ? panel.curves.map(key) : []), ...(options.training ? [make("span", { class: "meaning" }, panel.meaning)] : []));
    const move = (index) => {
      line.setAttribute("x1", x(frames[index]));
      line.setAttribute("x2", x(frames[index]));
      panel.curves.forEach((curve, i) => {
        const value = curve.values[index];
        dots[i].setAttribute("visibility", value == null ? "hidden" : "visible");
        if (value != null) { dots[i].setAttribute("cx", x(frames[index])); dots[i].setAttribute("cy", y(value)); }
      });
    };
    const frameAt = (clientX) => {
      const area = svg.getBoundingClientRect();
      const at = ((clientX - area.left) / area.width) * width;
      return first + ((at - LEFT) / (width - LEFT - RIGHT)) * (last - first);
    };
    return { element: make("div", { class: "panel" }, head, svg), move, frameAt, title: panel.title };
  }

  function axis(clip, first, last, x, training) {
    const { frames, seconds } = clip;
    const text = (at, words) => make("text", { x: at, y: HEIGHT + 15, "text-anchor": "middle" }, words);
    if (training || frames.length < 2 || !seconds.length) {
      return ticks(first, last, 5).map((tick) => text(x(tick), training ? `step ${tick}` : `frame ${tick}`));
    }
    const pace = (frames.at(-1) - frames[0]) / Math.max(1e-9, seconds.at(-1) - seconds[0]);
    const frameOf = (time) => frames[0] + (time - seconds[0]) * pace;
    const times = ticks(0, seconds.at(-1), 8).filter((time) => frameOf(time) >= first && frameOf(time) <= last);
    return times.map((time) => text(x(frameOf(time)), `${time} s`));
  }

  function nearest(sorted, value) {
    let low = 0, high = sorted.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < value) low = middle + 1; else high = middle;
    }
    return low > 0 && value - sorted[low - 1] <= sorted[low] - value ? low - 1 : low;
  }

  function startCurves(root) {
    const clips = data.clips.filter((clip) => clip.panels.length);
    if (!clips.length) return null;
    const images = make("div", { class: "moment-images" });
    const where = make("p", { class: "moment-where" });
    const remark = make("p", { class: "moment-note" });
    const values = make("table", { "aria-hidden": "true" });
    const moment = make("aside", { class: "moment", "aria-label": "The frame at the cursor" }, images, where, remark, values);
    const panels = make("div", { class: "panels", tabindex: 0, role: "slider", "aria-label": "Moment of the clip" });
    const state = { clip: clips[0], held: 0, drawn: [], cells: [] };

    function showClip(clip, frame = null) {
      state.clip = clip;
      draw();
      panels.setAttribute("aria-valuemin", clip.frames[0]);
      panels.setAttribute("aria-valuemax", clip.frames.at(-1));
      state.cells = [];
      const body = make("tbody");
      for (const panel of clip.panels) {
        body.append(make("tr", { class: "group" }, make("th", { colspan: 2 }, panel.title)));
        for (const curve of panel.curves) {
          const cell = make("td", { class: "number" });
          state.cells.push([curve, cell]);
          body.append(make("tr", {}, make("td", {}, key(curve)), cell));
        }
      }
      values.replaceChildren(body);
      hold(frame == null ? clip.frames.length >> 1 : nearest(clip.frames, frame));
    }
    function draw() {
      const { clip } = state;
      const width = Math.max(240, panels.clientWidth);
      state.drawn = clip.panels.map((panel, i) => drawPanel(panel, clip, { width, first: i === 0, axis: i === clip.panels.length - 1 || i === 0 }));
      panels.replaceChildren(...state.drawn.map((panel) => panel.element));
    }
    function show(index) {
      const { clip } = state;
      const frame = clip.frames[index];
      const time = clip.seconds[index] == null ? "" : ` · ${clip.seconds[index].toFixed(2)} s`;
      state.drawn.forEach((panel) => panel.move(index));
      where.textContent = `Frame ${frame}${time}`;
      for (const [curve, cell] of state.cells) cell.textContent = format(curve.values[index]);
      const thumb = clip.thumbs.length ? clip.thumbs[nearest(clip.thumbs.map((one) => one.frame), frame)] : null;
      const notes = thumb && thumb.frame !== frame ? [`pictures of frame ${thumb.frame}`] : [];
      if (clip.step > 1) notes.push(`medians of ${clip.step} frames`);
      if (clip.held_out != null && frame >= clip.held_out) notes.push("held out");
      remark.textContent = notes.join(", ");
      if (thumb && images.dataset.frame !== `${clip.name} ${thumb.frame}`) {
        images.dataset.frame = `${clip.name} ${thumb.frame}`;
        images.replaceChildren(...Object.entries(thumb.images).map(([name, address]) =>
          make("figure", {}, make("img", { src: address, alt: `${titled(name)}, frame ${thumb.frame}` }), make("figcaption", {}, titled(name)))));
      } else if (!thumb) images.replaceChildren();
      const spoken = state.cells.slice(0, 3).map(([curve]) => `${curve.name} ${format(curve.values[index])}`).join(", ");
      panels.setAttribute("aria-valuenow", frame);
      panels.setAttribute("aria-valuetext", `frame ${frame}${time}, ${spoken}`);
    }
    function hold(index) {
      state.held = clamp(index, 0, state.clip.frames.length - 1);
      show(state.held);
    }
    const indexAt = (event) => nearest(state.clip.frames, state.drawn[0].frameAt(event.clientX));
    panels.addEventListener("pointermove", (event) => show(indexAt(event)));
    panels.addEventListener("pointerleave", () => show(state.held));
    panels.addEventListener("click", (event) => hold(indexAt(event)));
    panels.addEventListener("keydown", (event) => {
      const { frames, seconds } = state.clip;
      const far = (direction) => {
        const now = seconds[state.held];
        return now == null ? state.held + 25 * direction : nearest(seconds.map((t) => t ?? Infinity), now + direction);
      };
      const moves = {
        ArrowRight: () => state.held + 1, ArrowUp: () => state.held + 1,
        ArrowLeft: () => state.held - 1, ArrowDown: () => state.held - 1,
        PageUp: () => far(1), PageDown: () => far(-1), Home: () => 0, End: () => frames.length - 1,
      };
      if (!moves[event.key]) return;
      event.preventDefault();
      hold(moves[event.key]());
    });

    let select = null;
    if (clips.length > 1) {
      const control = selector("Clip", clips.map((clip) => clip.name), 0, (i) => showClip(clips[i]));
      select = control.querySelector("select");
      root.append(make("div", { class: "controls" }, control));
    }
    root.append(panels, moment);
    showClip(clips[0]);
    redrawn(panels, () => { draw(); show(state.held); });
    return (name, frame) => {
      const index = clips.findIndex((clip) => clip.name === name);
      if (index < 0) return;
      if (select) select.value = index;
      if (clips[index] !== state.clip) showClip(clips[index], frame); else hold(nearest(clips[index].frames, frame));
      root.closest("section").scrollIntoView();
      panels.focus({ preventScroll: true });
    };
  }

  /** Draw again when the width has changed, so that letters and lines keep their size. */
  function redrawn(element, draw) {
    let width = element.clientWidth;
    new ResizeObserver(() => {
      if (Math.abs(element.clientWidth - width) < 2) return;
      width = element.clientWidth;
      draw();
    }).observe(element);
  }

  function startTraining(root) {
    const clip = { ...data.training, total: 0 };
    if (!clip.frames.length) return;
    const panels = make("div", { class: "panels" });
    root.append(panels);
    const draw = () => {
      const width = panels.firstChild?.clientWidth ?? Math.min(panels.clientWidth, 520);
      panels.replaceChildren(...clip.panels.map((panel) => drawPanel(panel, clip, { axis: true, training: true, width }).element));
    };
    draw();
    redrawn(panels, draw);
  }

  // ------------------------------------------------------------------------------------------------ where one is

  function followSections(links) {
    const byName = new Map(links.map((link) => [link.hash.slice(1), link]));
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) {
        links.forEach((link) => link.removeAttribute("aria-current"));
        byName.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-20% 0px -70% 0px" });
    document.querySelectorAll("main > section[id]").forEach((part) => seen.observe(part));
  }

  startTheme(document.getElementById("theme"));
  document.querySelectorAll("table").forEach(sortable);
  const looks = document.getElementById("looks"), curves = document.getElementById("curves"), training = document.getElementById("training-curves");
  if (looks) startLooks(looks);
  const jump = curves ? startCurves(curves) : null;
  if (training) startTraining(training);
  document.querySelectorAll(".card").forEach((card) =>
    card.addEventListener("click", () => jump?.(card.dataset.clip, Number(card.dataset.frame))));
  followSections([...document.querySelectorAll(".bar nav a")]);
})();
