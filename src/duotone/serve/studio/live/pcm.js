/* Samples as 16 bits and as numbers within +-1, interleaved. */

/** 16-bit samples as numbers. */
export function toFloat(samples) {
  const found = new Float32Array(samples.length);
  for (let i = 0; i < samples.length; i++) found[i] = samples[i] / 32768;
  return found;
}

/** Numbers as 16-bit samples; those beyond full scale are clamped. */
export function toPcm(samples) {
  const found = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) found[i] = Math.max(-32768, Math.min(32767, Math.round(samples[i] * 32768)));
  return found;
}
