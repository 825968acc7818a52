/* Loudness by ITU-R BS.1770-5 over a whole sound, without gating, as duotone.evaluate.loudness computes it. */

const RATE = 48000;
/* The two filters of the K weighting at 48 kHz, feedforward and feedback: BS.1770-5, tables 1 and 2. */
const SHELF = [[1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585]];
const HIGH_PASS = [[1, -2, 1], [1, -1.99004745483398, 0.99007225036621]];
const OFFSET = -0.691; // makes a 997 Hz sine of full scale in one channel -3.01 LKFS
const CEILING = 0.999; // of samples, as there

/** In LKFS; -Infinity for silence. */
export async function loudness(buffer) {
  const context = new OfflineAudioContext(buffer.numberOfChannels, buffer.length, RATE);
  const source = new AudioBufferSourceNode(context, { buffer });
  const [first, second] = [SHELF, HIGH_PASS].map(([feedforward, feedback]) => new IIRFilterNode(context, { feedforward, feedback }));
  source.connect(first).connect(second).connect(context.destination);
  source.start();
  const weighted = await context.startRendering();
  let power = 0;
  for (let c = 0; c < weighted.numberOfChannels; c++) for (const sample of weighted.getChannelData(c)) power += sample * sample;
  return power > 0 ? OFFSET + 10 * Math.log10(power / buffer.length) : -Infinity;
}

export function peak(buffer) {
  let most = 0;
  for (let c = 0; c < buffer.numberOfChannels; c++) for (const sample of buffer.getChannelData(c)) most = Math.max(most, Math.abs(sample));
  return most;
}

/** Factors that make sounds as loud as the first; all are quieter by the same amount where one would exceed full scale. */
export function matched(sounds) {
  const gains = sounds.map(({ lkfs }) => (Number.isFinite(lkfs) && Number.isFinite(sounds[0].lkfs) ? 10 ** ((sounds[0].lkfs - lkfs) / 20) : 1));
  const most = Math.max(...gains.map((gain, i) => gain * sounds[i].peak));
  return gains.map((gain) => gain * Math.min(1, CEILING / most));
}
