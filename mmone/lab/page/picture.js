// A picture from a file, and what a model says of it, drawn.
import {bar, element} from './chart.js';

// What browsers let a canvas have, on phones.
const MOST_PIXELS = 16e6;
const LEAST_SCORE = 0.3;

/** Decode a picture as mmone.runtime reads it: {data, height, width}, in RGB, and a bitmap to be shown. */
export async function decode(file, meta) {
  const {color_type: type = 'color', backend = 'cv2'} = meta.reading ?? {};
  const turned = type.endsWith('_ignore_orientation') || backend === 'turbojpeg';
  const options = {
    imageOrientation: turned ? 'none' : 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'none'};
  const bitmap = await createImageBitmap(file, options)
    .catch(() => createImageBitmap(file))  // of browsers that know not all of the options
    .catch(() => { throw new Error('This browser cannot read the picture: choose another.'); });
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const width = Math.round(bitmap.width * shrink), height = Math.round(bitmap.height * shrink);
  const canvas = element('canvas', {width, height});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0, width, height);
  const {data: pixels} = context.getImageData(0, 0, width, height);
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    data[i * 3] = pixels[i * 4];
    data[i * 3 + 1] = pixels[i * 4 + 1];
    data[i * 3 + 2] = pixels[i * 4 + 2];
  }
  return {image: {data, height, width}, bitmap};
}

/** Why a model takes no pictures here; null if it does. */
export function obstacle(meta) {
  if (!meta) return 'a network alone';
  if (meta.input.mean.length !== 3) return 'not for colour';
  return meta.reading === null || (meta.reading?.color_type ?? 'color').startsWith('color') ? null : 'not for colour';
}

/** Draw the picture with the answer on it, and list the answer. */
export function show(canvas, list, bitmap, image, answer, meta) {
  const ratio = self.devicePixelRatio || 1;
  const room = canvas.parentElement.clientWidth;
  const width = Math.min(room, Math.round(self.innerHeight * 0.6 * image.width / image.height));
  canvas.width = width * ratio;
  canvas.height = width * ratio * image.height / image.width;
  canvas.style.width = `${width}px`;
  const context = canvas.getContext('2d');
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute('aria-label', SHOWN[answer.task](context, list, image, answer, meta, ratio));
}

const SHOWN = {
  classification(context, list, image, {best, positive}) {
    const chosen = new Set(positive.map(({label}) => label));
    const listed = positive.length > best.length ? positive : best;  // both are the beginning of one list
    list.replaceChildren(answers(listed.map(({label, name, score}) => ({
      name, value: percent(score), part: score, is: chosen.has(label)}))));
    return `The picture: ${positive.map(({name}) => name).join(', ') || 'none of the classes'}`;
  },

  detection(context, list, image, {boxes}, meta, ratio) {
    const shown = boxes.filter(({score}) => score >= LEAST_SCORE);
    const scale = context.canvas.width / image.width;
    for (const {label, name, score, box} of [...shown].reverse()) {
      drawBox(context, box.map(side => side * scale), `${name} ${percent(score)}`, colour(label, meta), ratio);
    }
    list.replaceChildren(shown.length
      ? answers(shown.map(({label, name, score}) => ({name, value: percent(score), swatch: colour(label, meta)})))
      : element('p', {}, `Nothing with a score of ${percent(LEAST_SCORE)} or more.`));
    return `The picture with ${shown.length} boxes`;
  },

  segmentation(context, list, image, {mask, classes}, meta) {
    drawMask(context, mask, image, new Map(classes.map(({label}) => [label, rgb(label, meta)])));
    list.replaceChildren(answers(classes.map(({label, name, part}) => ({
      name, value: percent(part), swatch: colour(label, meta)}))));
    return `The picture's areas: ${classes.map(({name}) => name).join(', ')}`;
  },
};

function answers(entries) {
  return element('ol', {className: 'answers'}, ...entries.map(({name, value, part, swatch, is}) => {
    const title = element('span', {className: is ? 'is' : ''});
    if (swatch) {
      const square = element('span', {className: 'swatch'});
      square.style.backgroundColor = swatch;
      title.append(square);
    }
    title.append(name);
    const row = element('li', {}, title, element('span', {className: is ? 'value is' : 'value'}, value));
    if (part !== undefined) row.append(bar(part));
    return row;
  }));
}

function percent(part) {
  return part > 0 && part < 0.001 ? '<0.1 %' : `${(100 * part).toFixed(1)} %`;
}

function drawBox(context, [x1, y1, x2, y2], text, colour, ratio) {
  context.lineWidth = 2.5 * ratio;
  context.strokeStyle = context.fillStyle = colour;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
  const width = context.measureText(text).width + 10 * ratio, height = 20 * ratio;
  const left = Math.max(0, Math.min(x1, context.canvas.width - width)), top = y1 >= height ? y1 - height : Math.max(0, y1);
  context.fillRect(left, top, width, height);
  context.fillStyle = isLight(colour) ? '#000' : '#fff';
  context.textBaseline = 'middle';
  context.fillText(text, left + 5 * ratio, top + height / 2);
}

function drawMask(context, mask, {height, width}, colours) {
  const layer = element('canvas', {width, height});
  const pixels = new ImageData(width, height);
  for (let i = 0; i < mask.length; i++) {
    const [r, g, b] = colours.get(mask[i]);
    pixels.data.set([r, g, b, 128], i * 4);
  }
  layer.getContext('2d').putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
}

/** The colour of a class: the data set's, or one of its own. */
function rgb(label, meta) {
  const given = meta.palette?.[label];
  if (given?.length === 3) return given;
  const hue = (label * 137.508 + 205) % 360;  // by the golden angle, so that neighbours differ
  const [lightness, chroma] = [0.4 - 0.06 * (label % 3), 0.75];
  return [0, 8, 4].map(n => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness - chroma * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

function colour(label, meta) {
  return `rgb(${rgb(label, meta).join(' ')})`;
}

function isLight(colour) {
  const [r, g, b] = colour.match(/\d+/g).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b > 150;
}
