// What the arrays hold at one pixel: asked of the server, one question at a time, and told in words.

/** A class of a label map by name. */
export const className = (data, k) => (k === 0 ? "background" : k === 255 ? "undecided" : data.classes[k - 1] || String(k));

/** A probability in percent; 0 and 100 only where it is just that. */
export function percent(value) {
  if (value > 0.995 && value < 1) return "> 99 %";
  if (value < 0.005 && value > 0) return "< 1 %";
  return `${Math.round(100 * value)} %`;
}

/** The label that counts at a pixel, and how sure it is: of what a hand drew or marked there is no probability. */
export function verdict(data, v) {
  if (v.correction !== undefined) return `${className(data, v.correction)}, drawn by hand`;
  const marked = v.mark === v.class && v.confidence === 1;
  return `${className(data, v.class)}, ${marked ? "marked by hand" : percent(v.confidence)}`;
}

/** A function of x and y that asks for a pixel; while an answer is awaited, only the last question is remembered. */
export function asker(data, slot, show) {
  let busy = false, wanted = null;
  return async (x, y) => {
    wanted = [x, y];
    if (busy) return;
    busy = true;
    while (wanted) {
      const [px, py] = wanted;
      wanted = null;
      try {
        const answer = await fetch(`/api/value/${data.id}?x=${px}&y=${py}&slot=${slot()}`);
        if (answer.ok) show(await answer.json());
      } catch { /* the next move asks again */ }
    }
    busy = false;
  };
}
