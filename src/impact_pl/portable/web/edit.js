// Replace a region of a sound: what edit.py does. Sounds are Float64Array, so that samples outside stay as they are.

import { Noise } from "./noise.js";
import { fill, maskedCounts, roundEven } from "./sampling.js";

const SLACK = 0.01;
const FADE = 0.02;
const SILENT = 1e-3;
const MAX_GAIN_DB = 12;
const SMOOTHED = 5;

/** Replace what is heard between `start` and `end` (seconds). Returns a new sound. */
export async function replaceRegion(graphs, { sound, start, end, caption, seed, decoding, progress }) {
  const { sample_rate: rate, samples_per_patch: unit, max_patches: most } = graphs.config;
  const result = Float64Array.from(sound);
  const span = [roundEven(start * rate), Math.min(roundEven(end * rate), sound.length)];
  const parts = split(span, unit, most);
  const windows = parts.map((part) => windowOf(part, span, sound.length, unit, most));
  const totals = parts.map((part, i) => {
    const drawn = covered(windows[i], part, unit);
    return maskedCounts(drawn.length, decoding.num_iterations, decoding.reveal, drawn.filter(Boolean).length).length;
  });
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  for (const [number, part] of parts.entries()) {
    const report = (i) => progress?.(sum(totals.slice(0, number)) + i, sum(totals));
    await drawPart(graphs, result, windows[number], part, span, { number, caption, seed, decoding, progress: report });
  }
  return result;
}

function split([start, stop], unit, most) {
  const parts = Math.max(1, Math.ceil((stop - start) / (unit * Math.max(1, Math.floor(most / 2))) - SLACK));
  const edge = (part) => start + roundEven(((stop - start) * part) / parts);
  return Array.from({ length: parts }, (_, part) => [edge(part), edge(part + 1)]);
}

function windowOf(part, span, numSamples, unit, most) {
  const knownEnd = span[1] < numSamples || part[1] === span[1] ? numSamples : part[1];
  const inside = Math.max(1, Math.ceil((part[1] - part[0]) / unit - SLACK));
  const before = Math.floor(part[0] / unit + SLACK);
  const after = Math.max(0, Math.floor((knownEnd - part[0]) / unit + SLACK) - inside);
  const spare = Math.max(0, most - inside);
  const left = Math.min(before, Math.max(Math.floor(spare / 2), spare - after));
  const right = Math.min(after, spare - left);
  const first = part[0] - left * unit;
  return [first, first + (left + inside + right) * unit];
}

function covered(window, span, unit) {
  const first = Math.max(0, Math.floor((span[0] - window[0]) / unit + SLACK));
  const last = Math.max(first + 1, Math.ceil((span[1] - window[0]) / unit - SLACK));
  const frames = Array.from({ length: (window[1] - window[0]) / unit }, (_, i) => i);
  return frames.map((i) => span[0] < span[1] && i >= first && i < last);
}

async function drawPart(graphs, sound, window, part, span, { number, caption, seed, decoding, progress }) {
  const { config } = graphs;
  const { samples_per_patch: unit, patch_dim: size } = config;
  const drawn = covered(window, part, unit);
  const later = covered(window, [part[1], span[1]], unit);
  const known = drawn.map((each, i) => !each && !later[i]);
  const heard = new Float32Array(window[1] - window[0]);
  heard.set(sound.subarray(window[0], window[1]));
  if (!heard.some((x) => Math.abs(x) >= SILENT)) throw new Error("Around the region it is silent: make a sound instead.");
  const patches = await graphs.encodeSound(continued(heard, known, unit));
  const conditions = await graphs.conditions(caption);
  await fill(graphs, patches, known, drawn, conditions, decoding, new Noise(seed, caption, `latents ${number}`), progress);
  const first = Math.max(0, drawn.indexOf(true) - config.decode_context);
  const last = Math.min(drawn.length, drawn.lastIndexOf(true) + 1 + config.decode_context);
  const fresh = await graphs.decode(patches.slice(first * size, last * size), new Noise(seed, caption, `codec ${number}`));
  const gains = levelGains(heard.subarray(first * unit, last * unit), fresh, known.slice(first, last), unit);
  const curve = interpolation(gains.map((_, i) => (i + 0.5) * unit), gains);
  putBack(sound, window[0] + first * unit, fresh.map((x, i) => x * curve(i)), part, roundEven(FADE * config.sample_rate));
}

/** Mirror the known frames into the others next to them. */
function continued(frames, known, unit) {
  const out = frames.slice();
  known.forEach((isKnown, i) => {
    if (isKnown) return;
    const from = i > 0 && known[i - 1] ? i - 1 : i + 1 < known.length && known[i + 1] ? i + 1 : -1;
    const mirrored = from < 0 ? new Float32Array(unit) : frames.slice(from * unit, (from + 1) * unit).reverse();
    out.set(mirrored, i * unit);
  });
  return out;
}

/** Gains per frame that bring the decoded sound to the original's level where it is known. */
function levelGains(original, decoded, known, unit) {
  const powers = [original, decoded].map((x) => known.map((isKnown, i) => {
    let total = 0;
    for (let at = i * unit; at < (i + 1) * unit; at++) total += x[at] * x[at];
    return isKnown ? total / unit : 0;
  }));
  const reach = Math.floor(SMOOTHED / 2);
  const smooth = (x) => x.map((_, i) => x.slice(Math.max(0, i - reach), i + reach + 1).reduce((a, b) => a + b, 0));
  const heard = smooth(known.map(Number));
  const [wanted, found] = powers.map((x) => smooth(x).map((power, i) => power / Math.max(1, heard[i])));
  const usable = known.map((isKnown, i) => isKnown && wanted[i] > SILENT ** 2 && found[i] > SILENT ** 2);
  const places = [...usable.keys()].filter((i) => usable[i]);
  if (!places.length) return known.map(() => 1);
  const limited = (x) => Math.max(-MAX_GAIN_DB, Math.min(MAX_GAIN_DB, x));
  const decibels = interpolation(places, places.map((i) => limited(10 * Math.log10(wanted[i] / found[i]))));
  return known.map((_, i) => 10 ** (decibels(i) / 20));
}

/** A piecewise linear function through points with ascending x, constant beyond them. */
function interpolation(xs, ys) {
  let i = 0;
  return (x) => {
    while (i + 1 < xs.length && xs[i + 1] < x) i++;
    while (i > 0 && xs[i] > x) i--;
    if (x <= xs[0] || xs.length === 1) return ys[0];
    if (x >= xs[xs.length - 1]) return ys[ys.length - 1];
    return ys[i] + ((ys[i + 1] - ys[i]) * (x - xs[i])) / (xs[i + 1] - xs[i]);
  };
}

/** Write the span of a new sound into another, with cross-fades of equal power outside of it. */
function putBack(sound, position, fresh, span, fade) {
  const fadeIn = Math.min(fade, Math.max(0, span[0] - Math.max(0, position)));
  const fadeOut = Math.min(fade, Math.max(0, Math.min(sound.length, position + fresh.length) - span[1]));
  const [first, last] = [span[0] - fadeIn, span[1] + fadeOut];
  const part = fresh.slice(first - position, last - position);
  const peak = part.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
  part.forEach((x, i) => {
    const fromEnd = part.length - i;
    const rise = i < fadeIn ? (i + 1) / (fadeIn + 1) : 1;
    const fall = fromEnd <= fadeOut ? fromEnd / (fadeOut + 1) : 1;
    const angle = (Math.min(rise, fall) * Math.PI) / 2;
    sound[first + i] = sound[first + i] * Math.cos(angle) + (x / peak) * Math.sin(angle);
  });
}
