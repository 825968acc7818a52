/* WAV files of 16 bits. */

/** Interleaved 16-bit samples, as Int16Arrays in their order, as a WAV Blob. */
export function wav(blocks, channels, rate) {
  const bytes = blocks.reduce((sum, block) => sum + block.byteLength, 0), view = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, channels, true); view.setUint32(24, rate, true);
  view.setUint32(28, 2 * channels * rate, true); view.setUint16(32, 2 * channels, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, bytes, true);
  return new Blob([view.buffer, ...blocks], { type: "audio/wav" });
}

/** An AudioBuffer as a WAV Blob; samples beyond full scale are clamped. */
export function toWav(buffer) {
  const { numberOfChannels: channels, length, sampleRate } = buffer, all = new Int16Array(channels * length);
  for (let c = 0; c < channels; c++) {
    const samples = buffer.getChannelData(c);
    for (let i = 0; i < length; i++) all[i * channels + c] = Math.max(-32768, Math.min(32767, Math.round(samples[i] * 32768)));
  }
  return wav([all], channels, sampleRate);
}
