/* Colours of tokens and latents, and how the tokens of a chunk stand in a picture. */

const REACH = 2.2; // latents beyond +-REACH have the brightest colours

/** OKLab -> bytes of sRGB (Ottosson 2020). */
function oklab(lightness, a, b) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3, m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3,
    s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
  return linear.map((x) => 255 * Math.min(1, Math.max(0, x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055)));
}

/** A token's digits, least significant first. */
export function digitsOf(token, levels) {
  return levels.map((level) => {
    const digit = token % level;
    token = Math.floor(token / level);
    return digit;
  });
}

/** A colour for each token: where it has digits, tokens whose digits are near have colours that are near. */
export function tokenColour(token, levels) {
  if (!levels) {
    const angle = token * 2.399963; // the golden angle: neighbouring numbers differ most
    return oklab(0.4 + 0.4 * ((token * 0.618034) % 1), 0.13 * Math.cos(angle), 0.13 * Math.sin(angle));
  }
  const share = digitsOf(token, levels).map((digit, i) => (levels[i] > 1 ? digit / (levels[i] - 1) - 0.5 : 0));
  return oklab(0.58 + 0.5 * (share[0] ?? 0) + 0.12 * (share[3] ?? 0), 0.3 * (share[1] ?? 0), 0.3 * (share[2] ?? 0));
}

/** From dark at 0 to orange above and teal below: lightness is size. */
export function latentColour(value) {
  const size = Math.min(1, Math.abs(value) / REACH), turn = value > 0 ? [0.1, 0.12] : [-0.12, -0.03];
  const shown = size ** 0.75; // small values are to be seen too
  return oklab(0.15 + 0.65 * shown, turn[0] * shown, turn[1] * shown);
}

/** Columns a chunk and rows: the codebooks below each other, step after step. Many tokens of one codebook stand in columns, as many as
    there are of latents (`columns` a chunk, where the codec has them). */
export function tokenGrid(books, steps, columns) {
  const each = books === 1 && columns && steps % columns === 0 ? columns : steps;
  return { each, rows: books === 1 ? steps / each : books };
}
