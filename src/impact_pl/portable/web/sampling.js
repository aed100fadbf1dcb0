// The decoding loop and the steps of its diffusion: what runner.py, steps.py and sampling/schedules.py do.

import { Noise } from "./noise.js";

const reveals = {
  cosine: (progress) => Math.cos((Math.PI / 2) * progress),
  linear: (progress) => 1 - progress,
  sqrt: (progress) => 1 - Math.sqrt(progress),
};
const inverses = {
  cosine: (masked) => (Math.acos(masked) * 2) / Math.PI,
  linear: (masked) => 1 - masked,
  sqrt: (masked) => (1 - masked) ** 2,
};
const guidances = {
  cosine: (progress) => Math.cos((Math.PI / 2) * progress),
  constant: () => 1,
  linear: (progress) => 1 - Math.cos((Math.PI / 2) * progress),
};

/** The settings of a preset on top of the model's own, as with_preset in config.py. */
export function withPreset(config, preset, given = {}) {
  const changes = { ...config.presets[preset] };
  for (const name of ["num_iterations", "num_diffusion_steps"]) {
    if (name in changes) changes[name] = Math.min(changes[name], config.decoding[name]);
  }
  const decoding = { ...config.decoding, ...changes, ...given };
  decoding.final_diffusion_steps = Math.min(decoding.final_diffusion_steps, decoding.num_diffusion_steps);
  return decoding;
}

/** How many patches are masked after each iteration. */
export function maskedCounts(numPatches, numIterations, reveal, numMasked) {
  if (!numMasked) return [];
  const start = inverses[reveal](numMasked / numPatches);
  const iterations = Math.max(1, Math.ceil(numIterations * (1 - start) - 1e-9));
  const counts = [];
  let remaining = numMasked;
  for (let i = 1; i < iterations; i++) {
    const planned = Math.floor(numPatches * reveals[reveal](start + ((1 - start) * i) / iterations));
    remaining = Math.max(1, Math.min(remaining - 1, planned));
    counts.push(remaining);
  }
  return [...counts, 0];
}

export function guidanceAt(schedule, scale, iteration, total) {
  if (iteration === total && schedule === "cosine") return 1;
  return 1 + guidances[schedule](iteration / total) * (scale - 1);
}

/** Rounds halves to even, as Python. */
export function roundEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

function diffusionStepsAt(decoding, iteration, total) {
  const first = decoding.num_diffusion_steps;
  const last = decoding.final_diffusion_steps || first;
  return roundEven(first + ((last - first) * (iteration - 1)) / Math.max(1, total - 1));
}

/** The steps of ancestral sampling, noisiest first (steps.py). */
export function ancestralSteps(config, decoding, numSteps) {
  const size = config.num_timesteps;
  const angle = (t) => (((t / size + 0.008) / 1.008) * Math.PI) / 2;
  const usable = [];
  for (let t = 0, product = 1; t < size; t++) {
    product *= 1 - Math.min(1 - Math.cos(angle(t + 1)) ** 2 / Math.cos(angle(t)) ** 2, 0.999);
    if (product >= decoding.min_alpha_bar) usable.push(product);
  }
  const stride = (usable.length - 1) / Math.max(1, numSteps - 1);
  const kept = [];
  for (let i = 0, place = 0; i < numSteps; i++, place += stride) kept.push(roundEven(place));
  if (numSteps === 1) kept[0] = usable.length - 1;
  const rows = kept.map((timestep, i) => {
    const now = usable[timestep];
    const before = i ? usable[kept[i - 1]] : 1;
    const beta = 1 - now / before;
    const [x0OfX, x0OfY] = config.predicts_velocity
      ? [Math.sqrt(now), -Math.sqrt(1 - now)] : [Math.sqrt(1 / now), -Math.sqrt(1 / now - 1)];
    const keep = ((1 - before) * Math.sqrt(1 - beta)) / (1 - now);
    const mean = (beta * Math.sqrt(before)) / (1 - now);
    return { timestep, x0OfX, x0OfY, keep, mean, beta, variance: (beta * (1 - before)) / (1 - now) };
  });
  rows[0].variance = numSteps > 1 ? rows[1].variance : rows[0].beta;
  return rows.map((row, i) => {
    const [low, high] = [Math.fround(Math.log(row.variance)), Math.fround(Math.log(row.beta))];
    const std = i ? Math.exp((low + high) / 4) * decoding.temperature : 0;
    const [x0OfX, x0OfY, keep, mean] = [row.x0OfX, row.x0OfY, row.keep, row.mean].map(Math.fround);
    return { timestep: row.timestep, x0OfX, x0OfY, keep, mean, std, slope: (high - low) / 4 };
  }).reverse();
}

/** Draw patches (N rows) given the known ones, in place. `graphs` runs the model. */
export async function fill(graphs, patches, known, drawn, conditions, decoding, noise, progress) {
  const { config } = graphs;
  const numPatches = known.length;
  const visible = [...known];
  const chance = noise.uniform(numPatches);
  let order = [...chance.keys()].sort((a, b) => chance[a] - chance[b]).filter((i) => drawn[i]);
  const counts = maskedCounts(numPatches, decoding.num_iterations, decoding.reveal, order.length);
  for (const [index, left] of counts.entries()) {
    if (left < order.length) {
      const positions = order.slice(left);
      order = order.slice(0, left);
      const scale = guidanceAt(decoding.guidance_schedule, decoding.guidance_scale, index + 1, counts.length);
      const kept = [...visible.keys()].filter((i) => visible[i]);
      const hidden = await graphs.encode(patches, kept, positions, conditions, scale !== 1);
      const steps = ancestralSteps(config, decoding, diffusionStepsAt(decoding, index + 1, counts.length));
      const rows = await sample(graphs, hidden, positions.length, scale, steps, decoding.max_rms, noise);
      const size = config.patch_dim;
      positions.forEach((i, row) => patches.set(rows.subarray(row * size, (row + 1) * size), i * size));
      for (const i of positions) visible[i] = true;
    }
    progress?.(index + 1, counts.length);
  }
}

/** Sample rows of patches with the diffusion head, guided if the scale is not 1. */
async function sample(graphs, hidden, rows, scale, steps, maxRms, noise) {
  const size = graphs.config.patch_dim;
  const count = rows * size;
  const drawn = noise.normal(steps.length * count);
  const x = drawn.slice(0, count);
  const noisy = new Float32Array(scale === 1 ? count : 2 * count);
  for (const [index, step] of steps.entries()) {
    noisy.set(x);
    if (scale !== 1) noisy.set(x, count);
    const { output, variance } = await graphs.head(noisy, step.timestep, hidden);
    for (let row = 0; row < rows; row++) {
      const x0 = new Float32Array(size);
      let square = 0;
      for (let i = 0; i < size; i++) {
        const at = row * size + i;
        const y = scale === 1 ? output[at] : output[count + at] + scale * (output[at] - output[count + at]);
        x0[i] = step.x0OfX * x[at] + step.x0OfY * y;
        square += x0[i] * x0[i];
      }
      const factor = maxRms ? Math.min(1, maxRms / Math.sqrt(square / size)) : 1;
      for (let i = 0; i < size; i++) {
        const at = row * size + i;
        x[at] = step.keep * x[at] + step.mean * factor * x0[i];
        if (step.std) x[at] += step.std * drawn[(index + 1) * count + at] * Math.exp(step.slope * variance[at]);
      }
    }
  }
  return x;
}

/** Make a sound of `seconds` in [-1, 1] (Runner.generate). */
export async function generate(graphs, { caption, seconds, seed, decoding, progress }) {
  const { config } = graphs;
  const numSamples = roundEven(seconds * config.sample_rate);
  const numPatches = Math.ceil(numSamples / config.samples_per_patch);
  const patches = new Float32Array(numPatches * config.patch_dim);
  const drawn = new Array(numPatches).fill(true);
  const conditions = await graphs.conditions(caption);
  const noise = new Noise(seed, caption, "latents");
  await fill(graphs, patches, drawn.map(() => false), drawn, conditions, decoding, noise, progress);
  const sound = (await graphs.decode(patches, new Noise(seed, caption, "codec"))).slice(0, numSamples);
  const peak = sound.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
  return sound.map((x) => x / peak);
}
