// Asks once a second how the run goes, and changes what is shown. Texts become text nodes, never HTML.

const EVERY_MS = 1000;
const MOST_TAGS = 4; // regions of a picture whose labels stand in it; of more they are counted below
const SVG = "http://www.w3.org/2000/svg";
const NO_ANSWER = "no answer: the run has ended, or cannot be reached";
const SHUT_OUT = "the run was started anew: open its page with ?token= again";
const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const cards = new Map(); // by name of the camera

function make(tag, className, parent) {
  const made = document.createElement(tag);
  made.className = className;
  parent.append(made);
  return made;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function seconds(value) {
  if (value === null) return "";
  return value < 10 ? `${value.toFixed(1)} s` : value < 120 ? `${value.toFixed(0)} s` : `${(value / 60).toFixed(0)} min`;
}

// A colour for each label, the same everywhere.
function colour(label) {
  if (label === null) return "#fff";
  let hash = 7;
  for (const letter of label) hash = (31 * hash + letter.codePointAt(0)) >>> 0;
  return `hsl(${(137 * hash) % 360} 85% 65%)`;
}

function plot(svg, values, most) {
  const known = values.filter((value) => value !== null);
  const top = most ?? Math.max(1, ...known);
  let line = svg.firstElementChild;
  if (!line) {
    line = svg.appendChild(document.createElementNS(SVG, "polyline"));
    svg.setAttribute("viewBox", "0 0 300 100");
    svg.setAttribute("preserveAspectRatio", "none");
  }
  const first = 300 - values.length;
  const points = values.map((value, k) => (value === null ? null : `${first + k},${98 - (value / top) * 96}`));
  line.setAttribute("points", points.filter((point) => point !== null).join(" "));
  return known.length ? known[known.length - 1] : null;
}

function card(name) {
  if (cards.has(name)) return cards.get(name);
  const root = make("article", "camera", at("cameras"));
  const view = make("div", "view", root);
  const made = { root, view, picture: 0, drawn: "" };
  made.image = make("img", "", view);
  made.image.alt = `newest picture of ${name}`;
  made.image.hidden = true;
  made.image.addEventListener("load", () => {
    made.image.hidden = false;
    view.style.aspectRatio = `${made.image.naturalWidth} / ${made.image.naturalHeight}`;
  });
  made.overlay = view.appendChild(document.createElementNS(SVG, "svg"));
  made.overlay.setAttribute("viewBox", "0 0 1 1");
  made.overlay.setAttribute("preserveAspectRatio", "none");
  const facts = make("div", "facts", root);
  made.name = make("span", "name", facts);
  made.state = make("span", "state", facts);
  made.tally = make("span", "tally", facts);
  made.counts = make("span", "counts", facts);
  made.why = make("span", "why", facts);
  say(made.name, name);
  cards.set(name, made);
  return made;
}

function drawLabels(made, labels) {
  const drawn = JSON.stringify(labels);
  if (drawn === made.drawn) return;
  made.drawn = drawn;
  made.overlay.replaceChildren();
  for (const old of made.view.querySelectorAll(".tag")) old.remove();
  let whole = 0; // labels of whole frames stand one below the other
  const many = labels.filter((one) => one.corners).length > MOST_TAGS;
  const counted = new Map();
  for (const one of labels) {
    const what = one.label === null ? "–" : `${one.label} ${(100 * one.score).toFixed(0)} %`;
    const told = one.region === null ? what : `${one.region}: ${what}`;
    if (one.corners) {
      const polygon = made.overlay.appendChild(document.createElementNS(SVG, "polygon"));
      polygon.setAttribute("points", one.corners.map((corner) => corner.join(",")).join(" "));
      polygon.style.stroke = colour(one.label);
      say(polygon.appendChild(document.createElementNS(SVG, "title")), told);
      if (many) {
        counted.set(one.label, (counted.get(one.label) ?? 0) + 1);
        continue;
      }
    }
    const tag = make("span", "tag", made.view);
    say(tag, told);
    tag.style.color = colour(one.label);
    if (one.corners) {
      tag.style.left = `${100 * Math.min(...one.corners.map((corner) => corner[0]))}%`;
      tag.style.top = `${100 * Math.min(...one.corners.map((corner) => corner[1]))}%`;
    } else {
      tag.style.left = "6px";
      tag.style.top = `${6 + 20 * whole++}px`;
    }
  }
  made.tally.replaceChildren();
  for (const [label, count] of [...counted].sort((a, b) => b[1] - a[1])) {
    const tag = make("span", "count", made.tally);
    say(tag, `${label ?? "–"} ${count}`);
    tag.style.borderColor = colour(label);
  }
}

function showCameras(cameras) {
  const names = new Set(cameras.map((camera) => camera.name));
  for (const [name, made] of cards) {
    if (!names.has(name)) {
      made.root.remove();
      cards.delete(name);
    }
  }
  for (const camera of cameras) {
    const made = card(camera.name);
    made.root.className = `camera ${camera.state}`;
    made.state.className = `state ${camera.state}`;
    say(made.state, camera.state);
    const counts = [`${number.format(camera.labelled)} labelled`];
    if (camera.lag_s !== null) counts.push(`lag ${seconds(Math.max(0, camera.lag_s))}`);
    if (camera.dropped) counts.push(`${number.format(camera.dropped)} dropped`);
    if (camera.corrupt) counts.push(`${number.format(camera.corrupt)} corrupt`);
    if (camera.reconnects) counts.push(`connected anew ${number.format(camera.reconnects)} times`);
    say(made.counts, counts.join(" · "));
    say(made.why, camera.why);
    drawLabels(made, camera.labels);
    if (camera.picture && camera.picture !== made.picture) {
      made.picture = camera.picture;
      made.image.src = `picture?camera=${encodeURIComponent(camera.name)}&n=${camera.picture}`;
    }
  }
}

function showFiles(files, done) {
  at("files").hidden = !files.length;
  say(at("files-done"), files.length < done ? `(the last ${files.length} of ${number.format(done)})` : "");
  const rows = files.map((file) => {
    const row = document.createElement("tr");
    const counts = [file.indexed, file.labelled, file.skipped, file.corrupt, file.unread, file.failed];
    for (const text of [file.name, ...counts.map((count) => number.format(count))]) say(make("td", "", row), text);
    return row;
  });
  at("files").querySelector("tbody").replaceChildren(...rows);
}

function when(event) {
  if (event.began_s === null) return `frame ${number.format(event.first_frame)}`;
  const told = event.clock === "utc" ? new Date(1000 * event.began_s).toLocaleTimeString() : seconds(event.began_s);
  const lasted = event.ended_s === null || !event.is_over ? "" : `, ${seconds(event.ended_s - event.began_s)}`;
  return `${told}${lasted}`;
}

function showEvents(events) {
  const list = at("events");
  const shown = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const items = events.map((event) => {
    const version = `${event.is_over} ${event.thumbnail}`;
    const known = shown.get(event.key);
    if (known && known.dataset.version === version) return known;
    const item = document.createElement("li");
    item.dataset.key = event.key;
    item.dataset.version = version;
    if (event.thumbnail) {
      const image = make("img", "", item);
      image.alt = "";
      image.loading = "lazy";
      image.src = `picture?event=${encodeURIComponent(event.key)}&n=${event.is_over ? 2 : 1}`;
    }
    const text = make("div", "", item);
    say(make("div", event.is_over ? "" : "open", text), `${event.label} ${(100 * event.best_score).toFixed(0)} %`);
    say(make("div", "", text), event.region === null ? event.source : `${event.source}, ${event.region}`);
    say(make("small", "", text), when(event) + (event.is_over ? "" : ", goes on"));
    return item;
  });
  if (items.length !== list.children.length || items.some((item, k) => item !== list.children[k])) {
    list.replaceChildren(...items);
  }
}

function showReceivers(receivers) {
  at("receivers-head").hidden = !receivers.length;
  const lines = receivers.map((sink) => {
    const line = document.createElement("li");
    const lost = sink.lost ? `, ${number.format(sink.lost)} LOST` : "";
    say(line, `${sink.name}: ${number.format(sink.sent)} sent, ${number.format(sink.pending)} waiting${lost}`);
    return line;
  });
  at("receivers").replaceChildren(...lines);
}

function show(state) {
  document.title = `${state.name} – vpipe`;
  say(at("name"), state.name);
  const live = state.cameras.filter((camera) => camera.state === "live").length;
  const cameras = state.cameras.length ? `${live} of ${state.cameras.length} cameras live · ` : "";
  say(at("summary"), `${cameras}for ${seconds(state.now_s - state.began_s)} · vpipe ${state.version}`);
  at("problems").replaceChildren(
    ...state.problems.map((text) => {
      const line = document.createElement("li");
      say(line, text);
      return line;
    }),
  );
  const rate = plot(at("plot-rate"), state.plots.frames_per_s);
  say(at("rate"), rate === null ? "" : number.format(Math.round(rate)));
  const gpu = plot(at("plot-gpu"), state.plots.gpu_percent, 100);
  say(at("gpu"), gpu === null ? "none" : `${gpu.toFixed(0)} %`);
  const cpu = plot(at("plot-cpu"), state.plots.cpu_percent);
  say(at("cpu"), cpu === null ? "" : `${(cpu / 100).toFixed(2)} cores`);
  showCameras(state.cameras);
  showFiles(state.files, state.files_done);
  showEvents(state.events);
  showReceivers(state.receivers);
}

async function ask() {
  try {
    const answer = await fetch("state", { signal: AbortSignal.timeout(5000) });
    if (answer.ok) show(await answer.json());
    at("lost").hidden = answer.ok;
    if (!answer.ok) say(at("lost"), answer.status === 401 ? SHUT_OUT : `the run answers with an error (${answer.status})`);
  } catch {
    at("lost").hidden = false;
    say(at("lost"), NO_ANSWER);
  }
  setTimeout(ask, EVERY_MS);
}

ask();
