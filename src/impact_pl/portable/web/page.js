// The page: forms, player, picture and history. The model runs in worker.js.

import { draw, read, wav } from "./sound.js";
import { withPreset } from "./sampling.js";

const MAX_SECONDS = 60; // of an opened sound
const SETTINGS = ["num_iterations", "num_diffusion_steps", "guidance_scale", "temperature"];
const at = (id) => document.getElementById(id);
const number = (id) => at(id).valueAsNumber;

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const takes = []; // { sound, title, note }
let config = null;
let current = null;
let isBusy = false;
let finish = null; // what to do with the worker's next sound

worker.onmessage = ({ data }) => {
  ({
    loading: () => showLoading(data),
    ready: () => start(data.config),
    failed: () => fail(`The model cannot be loaded: ${data.message}`),
    progress: () => { at("progress").value = data.done / data.total; },
    sound: () => { finish(data.sound); setBusy(false); },
    error: () => { setBusy(false); fail(data.message); },
  })[data.kind]();
};
worker.onerror = (event) => { setBusy(false); fail(`The model has stopped: ${event.message ?? "reload the page"}`); };

function showLoading({ loaded, total }) {
  const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
  at("limits").textContent = `Loading the model: ${megabytes(loaded)} of ${megabytes(total)} MB`;
  at("loading").value = total ? loaded / total : 0;
}

function start(found) {
  config = found;
  const longest = (config.max_patches * config.samples_per_patch) / config.sample_rate;
  at("loading").hidden = true;
  at("limits").textContent = `New sounds last up to ${longest.toFixed(2)} s, at ${config.sample_rate / 1000} kHz in mono. `
    + `Opened ones are converted to that, and may last ${MAX_SECONDS} s.`;
  at("seconds").max = longest;
  setBusy(false);
}

function setBusy(busy) {
  isBusy = busy;
  at("generate").disabled = busy || !config;
  at("replace").disabled = busy || !config || !current;
  at("open").disabled = busy;
  at("progress").hidden = !busy;
  at("progress").value = 0;
  if (busy) say("Working…");
}

function say(text, isWrong = false) {
  at("message").textContent = text;
  at("message").classList.toggle("wrong", isWrong);
}

function fail(text) { say(text, true); }

/** Settings of the form, and their description. */
function settings() {
  const given = SETTINGS.filter((name) => at(name).value !== "").map((name) => [name, number(name)]);
  const preset = at("preset").value;
  const shown = given.map(([name, value]) => `, ${name.replaceAll("_", " ")} ${value}`).join("");
  return {
    seed: number("seed"),
    decoding: withPreset(config, preset, Object.fromEntries(given)),
    text: `seed ${number("seed")}, preset ${preset}${shown}`,
  };
}

function ask(message, done) {
  const begun = performance.now();
  setBusy(true);
  finish = (sound) => {
    done(sound);
    say(`Done in ${((performance.now() - begun) / 1000).toFixed(1)} s.`);
  };
  worker.postMessage(message);
}

at("make").onsubmit = (event) => {
  event.preventDefault();
  if (isBusy || !config) return;
  const [caption, seconds, { seed, decoding, text }] = [at("caption").value.trim(), number("seconds"), settings()];
  if (!caption) return fail("Type what is to be heard.");
  ask({ task: "generate", caption, seconds, seed, decoding }, (sound) => add(sound, caption, `“${caption}”, ${text}`));
};

at("edit").onsubmit = (event) => {
  event.preventDefault();
  if (isBusy || !current) return;
  const [caption, first, last, { seed, decoding, text }] = [at("drawn").value.trim(), number("start"), number("end"), settings()];
  const duration = current.sound.length / config.sample_rate;
  if (!caption) return fail("Type what is to be heard in the region.");
  if (!(first < last && last <= duration + 0.005)) return fail(`Mark a region from 0 to ${duration.toFixed(2)} s.`);
  const where = `${first} to ${last} s`;
  const note = `${current.note}; then ${where} “${caption}”, ${text}`;
  const options = { sound: current.sound, start: first, end: Math.min(last, duration), caption, seed, decoding };
  ask({ task: "edit", ...options }, (sound) => add(sound, `${where}: ${caption}`, note));
};

at("open").onchange = async () => {
  const [file] = at("open").files;
  if (!file || !config || isBusy) return;
  try {
    const sound = await read(file, config.sample_rate);
    const seconds = sound.length / config.sample_rate;
    if (seconds > MAX_SECONDS) throw new Error(`it lasts ${seconds.toFixed(0)} s, and at most ${MAX_SECONDS} s can be opened`);
    add(sound, file.name, file.name);
    say("");
  } catch (error) {
    fail(`${file.name} cannot be opened: ${error.message}`);
  }
  at("open").value = "";
};

/** Add a sound to the history and show it. */
function add(sound, title, note) {
  const take = { sound, note, button: document.createElement("button") };
  take.button.type = "button";
  take.button.textContent = `${takes.push(take)}. ${title}`;
  take.button.onclick = () => show(take);
  at("takes").append(take.button);
  show(take);
}

function show(take) {
  const isSameLength = current?.sound.length === take.sound.length;
  current = take;
  for (const each of takes) each.button.setAttribute("aria-pressed", each === take);
  const seconds = take.sound.length / config.sample_rate;
  URL.revokeObjectURL(at("player").src);
  const url = URL.createObjectURL(wav(take.sound, config.sample_rate));
  at("player").src = url;
  at("download").href = url;
  at("download").download = "sound.wav";
  at("download").hidden = false;
  at("note").textContent = `${seconds.toFixed(2)} s: ${take.note}`;
  if (!isSameLength) mark(seconds / 3, (2 * seconds) / 3);
  redraw();
  at("replace").disabled = isBusy;
}

function mark(first, last) {
  at("start").value = first.toFixed(2);
  at("end").value = last.toFixed(2);
}

function redraw() {
  if (!current) return;
  const seconds = current.sound.length / config.sample_rate;
  draw(at("picture"), current.sound, [number("start") / seconds, number("end") / seconds].map((x) => Math.min(1, x || 0)));
}

at("start").oninput = redraw;
at("end").oninput = redraw;
let dragged = null;
const secondsAt = (event) => {
  const { left, width } = at("picture").getBoundingClientRect();
  return (Math.max(0, Math.min(1, (event.clientX - left) / width)) * current.sound.length) / config.sample_rate;
};
at("picture").onpointerdown = (event) => {
  if (!current) return;
  at("picture").setPointerCapture(event.pointerId);
  dragged = secondsAt(event);
};
at("picture").onpointermove = (event) => {
  if (dragged === null) return;
  const here = secondsAt(event);
  mark(Math.min(dragged, here), Math.max(dragged, here));
  redraw();
};
at("picture").onpointerup = () => { dragged = null; };
at("picture").onpointercancel = () => { dragged = null; };
