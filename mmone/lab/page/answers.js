// What a model's outputs say of a picture: as mmone.runtime.Runtime.predict does.

/** Read the outputs of a picture of `height` and `width`, of which the model was given `input`. */
export function readAnswer(outputs, meta, input, {height, width}) {
  const named = label => meta.classes[label] ?? String(label);
  if (meta.task === 'classification') {
    const scores = Array.from(outputs.scores.data, Number);
    const order = scores.map((_, label) => label).sort((a, b) => scores[b] - scores[a] || a - b);
    const best = order.map(label => ({label, name: named(label), score: scores[label]}));
    return {task: meta.task, best: best.slice(0, 5), positive: positive(best, meta.decision)};
  }
  if (meta.task === 'detection') {
    const labels = Array.from(outputs.labels.data, Number), rows = outputs.boxes.data;
    const scale = [width / input.width, height / input.height];
    const boxes = labels.map((label, i) => ({
      label, name: named(label), score: Number(rows[i * 5 + 4]),
      box: [0, 1, 2, 3].map(side => Number(rows[i * 5 + side]) * scale[side % 2]),
    }));
    return {task: meta.task, boxes: boxes.filter(({label}) => label >= 0)};
  }
  return {task: meta.task, ...areas(outputs.labels, input, height, width, named)};
}

/** The classes that a picture is of: the best, or where it may be of several, those that reach the head's threshold. */
function positive(best, decision) {
  const {threshold = null, topk = 1} = decision ?? {};
  return threshold === null ? best.slice(0, topk) : best.filter(({score}) => score >= threshold);
}

/** The class of each of the picture's pixels, and the fraction of each class. */
function areas(labels, input, height, width, named) {
  const mask = new Int32Array(height * width), counts = new Map();
  const columns = Int32Array.from({length: width}, (_, x) => Math.min(Math.floor(x * (input.width / width)), input.width - 1));
  for (let y = 0; y < height; y++) {
    const row = Math.min(Math.floor(y * (input.height / height)), input.height - 1) * input.width;
    for (let x = 0; x < width; x++) {
      const label = Number(labels.data[row + columns[x]]);
      mask[y * width + x] = label;
      counts.set(label, (counts.get(label) ?? 0) + 1);
    }
  }
  const classes = [...counts].map(([label, count]) => ({label, name: named(label), part: count / mask.length}));
  return {mask, classes: classes.sort((a, b) => b.part - a.part)};
}
