// Runs the model in a thread of its own: onnxruntime-web on the exported graphs.

import * as ort from "./ort/ort.wasm.min.mjs";
import { replaceRegion } from "./edit.js";
import { generate } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";

const NAMES = ["text", "encoder", "head", "audio_decoder", "audio_encoder"];
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
ort.env.logLevel = "error";

const float = (data, ...shape) => new ort.Tensor("float32", data, shape);
const int = (data, ...shape) => new ort.Tensor("int64", BigInt64Array.from(data, BigInt), shape);
const bool = (data, ...shape) => new ort.Tensor("bool", Uint8Array.from(data), shape);

/** The graphs as functions of plain arrays. */
class Graphs {
  constructor(config, tokenizer, sessions) {
    Object.assign(this, { config, tokenizer, sessions });
  }

  async run(name, inputs) {
    const outputs = await this.sessions[name].run(inputs);
    return Object.fromEntries(Object.entries(outputs).map(([key, tensor]) => [key, tensor.data]));
  }

  /** States and mask of a caption, followed by those of the null condition. */
  async conditions(caption) {
    const length = this.config.text_length;
    const { ids, mask } = this.tokenizer.encode(caption);
    const nothing = mask.map(() => false);
    const inputs = { ids: int([...ids, ...ids], 2, length), mask: bool([...mask, ...nothing], 2, length) };
    const { states, text_mask: textMask } = await this.run("text", inputs);
    return { states, textMask, length, dim: states.length / 2 / length };
  }

  async encode(patches, kept, positions, { states, textMask, length, dim }, isGuided) {
    const size = this.config.patch_dim;
    const count = isGuided ? 2 : 1;
    const twice = (data) => (isGuided ? [...data, ...data] : data);
    const both = new Float32Array(count * patches.length);
    for (let i = 0; i < count; i++) both.set(patches, i * patches.length);
    const { hidden } = await this.run("encoder", {
      patches: float(both, count, patches.length / size, size),
      kept: int(twice(kept), count, kept.length),
      states: float(states.slice(0, count * length * dim), count, length, dim),
      text_mask: bool(textMask.slice(0, count * length), count, length),
      positions: int(twice(positions), count, positions.length),
    });
    return hidden;
  }

  head(noisy, timestep, hidden) {
    const rows = noisy.length / this.config.patch_dim;
    return this.run("head", {
      noisy: float(noisy, rows, this.config.patch_dim),
      timestep: int([timestep], 1),
      hidden: float(hidden, rows, hidden.length / rows),
    });
  }

  async decode(patches, noise) {
    const { hop, n_fft: window, num_bins: bins, num_channels: channels } = this.config.excitation;
    const num = patches.length / this.config.patch_dim;
    const frames = (num * this.config.samples_per_patch) / hop;
    const samples = (frames - 1) * hop + window;
    const white = noise.normal(samples);
    const phases = noise.uniform(bins).map((x) => Math.fround(2 * Math.PI) * x);
    const inputs = noise.normal((frames / 2) * channels);
    const { waveform } = await this.run("audio_decoder", {
      patches: float(patches, 1, num, this.config.patch_dim),
      noise: float(white, 1, samples),
      phases: float(phases, 1, bins),
      inputs: float(inputs, 1, frames / 2, channels),
    });
    return waveform;
  }

  async encodeSound(waveform) {
    const { patches } = await this.run("audio_encoder", { waveform: float(waveform, 1, waveform.length) });
    return patches.slice();
  }
}

async function load() {
  const responses = await Promise.all(NAMES.map((name) => open(`model/${name}.onnx`)));
  const total = responses.reduce((sum, response) => sum + Number(response.headers.get("content-length")), 0);
  const [config, tokenizer] = await Promise.all(["config", "tokenizer"].map(async (name) => (await open(`model/${name}.json`)).json()));
  const sessions = {};
  let loaded = 0;
  for (const [i, name] of NAMES.entries()) {
    const chunks = [];
    for (const reader = responses[i].body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      loaded += value.length;
      postMessage({ kind: "loading", loaded, total });
    }
    const file = new Uint8Array(await new Blob(chunks).arrayBuffer());
    sessions[name] = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  }
  return new Graphs(config, new Tokenizer(tokenizer, config.text_length), sessions);
}

async function open(path) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`${path}: the server answers ${response.status}`);
  return response;
}

const loading = load();
loading.then(({ config }) => postMessage({ kind: "ready", config }), (error) => postMessage({ kind: "failed", message: String(error.message ?? error) }));

onmessage = async ({ data: { task, ...options } }) => {
  const progress = (done, total) => postMessage({ kind: "progress", done, total });
  try {
    const graphs = await loading;
    const work = task === "generate" ? generate : replaceRegion;
    postMessage({ kind: "sound", sound: Float64Array.from(await work(graphs, { ...options, progress })) });
  } catch (error) {
    postMessage({ kind: "error", message: String(error.message ?? error) });
  }
};
