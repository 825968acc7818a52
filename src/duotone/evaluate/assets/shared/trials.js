/* Blind tests of two versions.
   nearer: A and B are the two in random order, the original is at hand; which is nearer to it?
   abx:    A and B are known, X is one of them at random; which? */

export const KINDS = { nearer: "Which is nearer to the original?", abx: "Which one is X? (ABX)" };

const coin = () => crypto.getRandomValues(new Uint8Array(1))[0] & 1;

/** A trial of `pair`, two versions by their numbers; `order` are those behind A, B, and X or the reference (version 0). */
export function newTrial(kind, pair) {
  const x = coin();
  return { kind, pair, x, order: kind === "abx" ? [...pair, pair[x]] : [pair[x], pair[1 - x], 0] };
}

/** What the three letters are called, and what may be told of them; `title` names a version. */
export function letters({ kind, pair }, title) {
  const told = kind === "abx" ? [title(pair[0]), title(pair[1]), "A or B"] : ["", "", "the original"];
  return told.map((about, i) => ({ letter: i < 2 ? "AB"[i] : kind === "abx" ? "X" : "Ref", about }));
}

export function question({ kind }) {
  return kind === "abx" ? "X is A or B. Which?" : "Which of A and B is nearer to the original?";
}

export function answerText({ kind }, letter) { return kind === "abx" ? `X is ${"AB"[letter]}` : `${"AB"[letter]} is nearer`; }

/** Answers, counted by kind and pair. */
export class Tally {
  constructor() { this.entries = new Map(); } // "kind:key:key" -> { kind, titles, counts: [a, b] }; for ABX counts are [right, wrong]

  get size() { return this.entries.size; }

  clear() { this.entries.clear(); }

  /** Counts an answer, A (0) or B (1), and gives what it was; `versions` have keys and titles. */
  answer({ kind, pair, order, x }, letter, versions) {
    const name = [kind, ...pair.map((i) => versions[i].key)].join(":");
    const entry = this.entries.get(name) ?? { kind, titles: pair.map((i) => versions[i].title), counts: [0, 0] };
    const right = letter === x;
    entry.counts[kind === "abx" ? Number(!right) : pair.indexOf(order[letter])] += 1;
    this.entries.set(name, entry);
    if (kind === "abx") return `${right ? "Right" : "Wrong"}: X was ${versions[order[2]].title}.`;
    return `You chose ${versions[order[letter]].title}; the other was ${versions[order[1 - letter]].title}.`;
  }

  /** Rows of a table: what was compared, how often, the result, and how probable it is by chance. */
  rows() {
    return [...this.entries.values()].map(({ kind, titles, counts }) => {
      const all = counts[0] + counts[1], abx = kind === "abx";
      const p = abx ? chance(counts[0], all) : Math.min(1, 2 * chance(Math.max(...counts), all)); // right answers, or either preference
      const result = abx ? `${counts[0]} of ${all} right` : `${titles[0]} ${counts[0]}, ${titles[1]} ${counts[1]}`;
      return [`${abx ? "ABX" : "nearer"}: ${titles.join(" / ")}`, all, result, p < 0.001 ? "< 0.001" : p.toFixed(3)];
    });
  }
}

/** How probable at least `count` of `all` tosses of a coin are. */
function chance(count, all) {
  let term = 0.5 ** all, sum = 0; // the term of k = 0
  for (let k = 0; k <= all; k++) {
    if (k >= count) sum += term;
    term *= (all - k) / (k + 1);
  }
  return Math.min(1, sum);
}
