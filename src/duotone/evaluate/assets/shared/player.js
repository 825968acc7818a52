/* Plays versions of a sound together and lets one of them be heard: all sources start in the same sample, gains choose one. */

export const SWITCH = 0.002; // time constant of a crossfade in seconds: the former version is 40 dB down after 9 ms

export class Player {
  /** `of` tells what is to be played, by functions that are asked whenever it matters:
      rate; duration() in seconds; sounds(): a promise of AudioBuffers; audible(): the index of the one that is heard;
      level(i): its gain; region(): [from, to] in seconds or null; loop(); changed(): something is to be shown anew. */
  constructor(of) {
    Object.assign(this, { of, context: null, master: null, voices: [], playing: false });
    this.offset = 0; // where the sound was, in seconds, at `since` of the context's clock
    this.since = 0;
    this.asked = 0; // the last wish to play, so that an earlier one does nothing when its sounds come
  }

  duration() { return this.of.duration(); }

  /** Where the sound is now, in seconds. */
  position() {
    if (!this.playing) return this.offset;
    const past = this.offset + Math.max(0, this.context.currentTime - (this.context.outputLatency || 0) - this.since);
    const [from, to] = this.part();
    if (past < to) return past;
    return this.of.loop() ? from + ((past - from) % (to - from)) : to;
  }

  /** The part that is repeated. */
  part() { return this.of.region() ?? [0, this.duration()]; }

  async play() {
    const wish = ++this.asked;
    this.context ??= new AudioContext({ sampleRate: this.of.rate, latencyHint: "interactive" });
    const [sounds] = await Promise.all([this.of.sounds(), this.context.resume()]);
    if (wish === this.asked) this.start(sounds);
  }

  start(sounds) {
    this.silence();
    const { of, context } = this, [from, to] = this.part();
    if (this.offset >= to - 0.01 || (of.region() && this.offset < from)) this.offset = from;
    this.master = new GainNode(context, { gain: 1 });
    this.master.connect(context.destination);
    this.since = context.currentTime + 0.03; // one time for all: they stay together to the sample
    this.voices = sounds.map((buffer, i) => {
      const source = new AudioBufferSourceNode(context, { buffer, loop: of.loop(), loopStart: from, loopEnd: to });
      const gain = new GainNode(context, { gain: i === of.audible() ? of.level(i) : 0 });
      source.connect(gain).connect(this.master);
      source.start(this.since, this.offset);
      if (!of.loop()) source.stop(this.since + to - this.offset);
      return { source, gain };
    });
    this.voices[0].source.onended = () => { if (this.playing) { this.pause(); this.offset = from; of.changed(); } };
    this.playing = true;
    of.changed();
  }

  /** Lets the version that is chosen be heard, from this instant on. */
  choose() {
    const { of } = this;
    this.voices.forEach(({ gain }, i) => gain.gain.setTargetAtTime(i === of.audible() ? of.level(i) : 0, this.context.currentTime, SWITCH));
  }

  /** Fades out and forgets what plays. */
  silence() {
    if (!this.voices.length) return;
    const now = this.context.currentTime;
    this.master.gain.setTargetAtTime(0, now, SWITCH);
    for (const { source } of this.voices) { source.onended = null; source.stop(now + 10 * SWITCH); }
    this.voices = [];
  }

  pause() { this.asked++; this.offset = this.position(); this.playing = false; this.silence(); }

  /** Goes to a place, in seconds, playing or not; gives whether the part that is repeated was left. */
  seek(seconds) {
    this.offset = Math.min(Math.max(0, seconds), this.duration() - 0.001);
    const region = this.of.region();
    return Boolean(region && (this.offset < region[0] || this.offset >= region[1]));
  }

  /** Plays on from where it is, by what `of` says now. */
  async restart() {
    if (!this.playing) return;
    const sounds = await this.of.sounds();
    if (this.playing) this.start(sounds);
  }
}
