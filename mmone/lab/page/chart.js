// Bars with their values as text.
const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes or properties, and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) key in made ? made[key] = value : made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawing(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A horizontal bar for a part of a whole; `range` is a line over it, from and to parts of the same whole. */
export function bar(part, {range, underWay = false} = {}) {
  const made = drawing('svg', {viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true'},
    drawing('rect', {class: 'rail', width: 100, height: 10}),
    drawing('rect', {class: underWay ? 'bar under-way' : 'bar', width: 100 * part, height: 10}));
  if (range) made.append(drawing('line', {class: 'whisker', x1: 100 * range[0], x2: 100 * range[1], y1: 5, y2: 5}));
  return made;
}

export function milliseconds(time) {
  return `${time < 10 ? time.toFixed(2) : time < 100 ? time.toFixed(1) : Math.round(time)} ms`;
}

/** Draw the models' bars: `entries` are {title, median, latency, failed}, of which some are still unknown. */
export function drawBars(list, entries) {
  const longest = Math.max(...entries.map(({median, latency}) => latency?.p90 ?? median ?? 0)) || 1;
  list.replaceChildren(...entries.map(({title, median, latency, failed}) => {
    const time = latency?.median ?? median;
    const row = element('li', {}, element('span', {}, title),
      element('span', {className: 'value'}, failed ? 'failed' : time ? milliseconds(time) : '…'),
      bar((time ?? 0) / longest, {
        underWay: !latency, range: latency && [latency.p10 / longest, latency.p90 / longest]}));
    const notes = [failed, latency && !latency.steady && 'unsteady: the times vary too much to rely on'].filter(Boolean);
    if (notes.length) row.append(element('span', {className: 'note'}, notes.join('; ')));
    return row;
  }));
}
