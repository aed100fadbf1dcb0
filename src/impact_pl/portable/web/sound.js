// Sound files and pictures of sounds.

/** Encode samples in [-1, 1] as a 16-bit mono WAV file. */
export function wav(sound, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const text = (at, letters) => [...letters].forEach((each, i) => view.setUint8(at + i, each.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * sound.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * sound.length, true);
  sound.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(x * 32768))), true));
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** Read a sound file as mono samples at a rate. */
export async function read(file, rate) {
  const context = new OfflineAudioContext(1, 1, rate);
  const audio = await context.decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  return Float64Array.from(channels[0], (_, i) => channels.reduce((sum, each) => sum + each[i], 0) / channels.length);
}

const SIZE = 512; // of the spectrogram's window
const COLOURS = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]]; // magma
const [LOUD, FLOOR] = [30, -70]; // dB of a bin

/** Draw the spectrogram of a sound, up to half of its rate, and the marked region (fractions of its length). */
export function draw(canvas, sound, region) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  if (canvas.sound !== sound) {
    canvas.sound = sound;
    canvas.picture = spectrogram(context, sound, width, height);
  }
  context.putImageData(canvas.picture, 0, 0);
  if (!region) return;
  const [first, last] = region.map((each) => each * width);
  context.fillStyle = "rgba(255, 255, 255, 0.12)";
  context.fillRect(first, 0, last - first, height);
  context.fillStyle = "#fff";
  for (const edge of [first, last]) context.fillRect(edge - 1.5, 0, 3, height);
}

function spectrogram(context, sound, width, height) {
  const image = context.createImageData(width, height);
  const real = new Float64Array(SIZE);
  const imaginary = new Float64Array(SIZE);
  for (let x = 0; x < width; x++) {
    const start = Math.floor((x / width) * sound.length) - SIZE / 2;
    for (let i = 0; i < SIZE; i++) {
      real[i] = (sound[start + i] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
      imaginary[i] = 0;
    }
    fourier(real, imaginary);
    for (let y = 0; y < height; y++) {
      const bin = Math.floor(((height - 1 - y) / height) * (SIZE / 2));
      const level = 10 * Math.log10(real[bin] ** 2 + imaginary[bin] ** 2 + 1e-12);
      const place = 4 * Math.max(0, Math.min(0.9999, (level - FLOOR) / (LOUD - FLOOR)));
      const [low, high] = [COLOURS[Math.floor(place)], COLOURS[Math.floor(place) + 1]];
      const at = 4 * (y * width + x);
      for (let c = 0; c < 3; c++) image.data[at + c] = low[c] + (place % 1) * (high[c] - low[c]);
      image.data[at + 3] = 255;
    }
  }
  return image;
}

/** Fourier transform in place; the size is a power of two. */
function fourier(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const [cos, sin] = [Math.cos((2 * Math.PI * k) / size), -Math.sin((2 * Math.PI * k) / size)];
      for (let i = k; i < n; i += size) {
        const j = i + size / 2;
        const re = real[j] * cos - imaginary[j] * sin;
        const im = real[j] * sin + imaginary[j] * cos;
        [real[j], imaginary[j]] = [real[i] - re, imaginary[i] - im];
        real[i] += re;
        imaginary[i] += im;
      }
    }
  }
}
