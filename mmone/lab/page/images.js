// Pictures are prepared as mmone.runtime does it (images.py, resampling.py), so that a file answers the same here.
// An image is {data, height, width}: three interleaved channels in RGB, of bytes (Uint8Array) or Float32Array.

const CHANNELS = 3;

/** Bring an image to a model's input: resized and cropped by its metadata, then channels first, as a flat array. */
export function toInput(image, meta) {
  if (meta.reading?.to_float32 && meta.input.dtype !== 'uint8') image = {...image, data: Float32Array.from(image.data)};
  for (const step of meta.pipeline) image = TRANSFORMS[step.type](image, step);
  return {height: image.height, width: image.width, data: channelsFirst(image, meta.input)};
}

function channelsFirst({data, height, width}, {dtype, mean, std}) {
  const size = height * width;
  const result = dtype === 'uint8' ? new Uint8Array(CHANNELS * size) : new Float32Array(CHANNELS * size);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < CHANNELS; c++) {
      const value = data[i * CHANNELS + c];
      result[c * size + i] = dtype === 'uint8' ? value : (value - Math.fround(mean[c])) / Math.fround(std[c]);
    }
  }
  return result;
}

const TRANSFORMS = {
  Resize(image, step) {
    const [width, height] = step.scale;
    if (!step.keep_ratio) return resize(image, height, width, step);
    const edges = [image.height, image.width];
    const ratio = Math.min(Math.max(...step.scale) / Math.max(...edges), Math.min(...step.scale) / Math.min(...edges));
    return resize(image, ...edges.map(edge => Math.trunc(edge * ratio + 0.5)), step);
  },

  ResizeEdge(image, step) {
    const {height, width} = image, edge = step.edge ?? 'short', scale = step.scale;
    const byWidth = edge === 'width' || (edge === 'short' && width < height) || (edge === 'long' && width > height);
    return byWidth ? resize(image, Math.trunc(scale * height / width), scale, step)
      : resize(image, scale, Math.trunc(scale * width / height), step);
  },

  CenterCrop(image, step) {
    const [width, height] = step.crop_size;
    const top = Math.max(0, roundHalfToEven((image.height - height) / 2));
    const left = Math.max(0, roundHalfToEven((image.width - width) / 2));
    return crop(image, top, left, Math.min(height, image.height - top), Math.min(width, image.width - left));
  },
};

function roundHalfToEven(value) {  // as Python rounds
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2 ? 1 : 0) : Math.round(value);
}

function crop({data, width: stride}, top, left, height, width) {
  const result = new data.constructor(height * width * CHANNELS);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * stride + left) * CHANNELS;
    result.set(data.subarray(start, start + width * CHANNELS), y * width * CHANNELS);
  }
  return {data: result, height, width};
}

/** Resize an image as OpenCV does, or as Pillow where the model was trained so. */
export function resize(image, height, width, {interpolation = 'bilinear', backend = 'cv2'} = {}) {
  if (image.height === height && image.width === width) return image;
  const {make, finish} = backend === 'pillow' ? pillow(interpolation)
    : opencv(interpolation, height > image.height || width > image.width);
  const taps = [make(image.width, width), make(image.height, height)];
  const between = finish(alongRows(image, width, taps[0]), image.data);
  const result = finish(alongColumns(between, height, taps[1]), image.data, true);
  return {data: result.data, height, width};
}

// Of each pixel of a new line: the first old pixels' places and their weights, `reach` of them.

function alongRows({data, height, width: before}, width, {places, weights, reach}) {
  const result = new Float64Array(height * width * CHANNELS);
  for (let y = 0; y < height; y++) {
    const row = y * before * CHANNELS;
    for (let x = 0; x < width; x++) {
      let r = 0, g = 0, b = 0;
      for (let i = x * reach; i < (x + 1) * reach; i++) {
        const at = row + places[i] * CHANNELS, weight = weights[i];
        r += data[at] * weight;
        g += data[at + 1] * weight;
        b += data[at + 2] * weight;
      }
      const to = (y * width + x) * CHANNELS;
      result[to] = r;
      result[to + 1] = g;
      result[to + 2] = b;
    }
  }
  return {data: result, height, width};
}

function alongColumns({data, width}, height, {places, weights, reach}) {
  const stride = width * CHANNELS, result = new Float64Array(height * stride);
  for (let y = 0; y < height; y++) {
    const to = y * stride;
    for (let i = y * reach; i < (y + 1) * reach; i++) {
      const from = places[i] * stride, weight = weights[i];
      if (weight) for (let x = 0; x < stride; x++) result[to + x] += data[from + x] * weight;
    }
  }
  return {data: result, height, width};
}

/** Taps from a function of a new pixel's number that gives its first place and weights, which are made to sum to one. */
function makeTaps(before, after, reach, at) {
  const places = new Int32Array(after * reach), weights = new Float64Array(after * reach);
  for (let number = 0; number < after; number++) {
    const {first, values} = at(number);
    const sum = values.reduce((a, b) => a + b, 0);
    for (let i = 0; i < reach; i++) {
      places[number * reach + i] = Math.min(Math.max(first + i, 0), before - 1);
      weights[number * reach + i] = i < values.length ? values[i] / sum : 0;
    }
  }
  return {places, weights, reach};
}

const sinc = x => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
const linear = distance => Math.max(0, 1 - distance);

function cubic(distance, a) {
  if (distance <= 1) return ((a + 2) * distance - (a + 3)) * distance ** 2 + 1;
  return distance < 2 ? a * (((distance - 5) * distance + 8) * distance - 4) : 0;
}

// OpenCV's: resampling.py, whose results differ from OpenCV's by at most one of 255 levels.

const CONVOLVED = {
  bilinear: [1, linear],
  bicubic: [2, distance => cubic(distance, -0.75)],
  lanczos: [4, distance => sinc(distance) * sinc(distance / 4)],
};

function opencv(interpolation, enlarged) {
  let make;
  if (interpolation === 'nearest') make = nearest;
  else if (interpolation === 'area') make = enlarged ? areaEnlarged : area;
  else make = (before, after) => convolved(before, after, ...CONVOLVED[interpolation]);
  const finish = (image, like, last) => {
    if (!last) return image;
    const data = new like.constructor(image.data.length);
    const bytes = !(like instanceof Float32Array);
    for (let i = 0; i < data.length; i++) {
      data[i] = bytes ? Math.min(Math.max(roundHalfToEven(image.data[i]), 0), 255) : image.data[i];
    }
    return {...image, data};
  };
  return {make, finish};
}

function convolved(before, after, reach, kernel) {
  return around(before, after, number => (number + 0.5) * before / after - 0.5, reach, kernel);
}

function around(before, after, position, reach, kernel) {
  return makeTaps(before, after, 2 * reach, number => {
    const place = position(number), first = Math.floor(place) + 1 - reach;
    return {first, values: Array.from({length: 2 * reach}, (_, i) => kernel(Math.abs(place - first - i)))};
  });
}

function nearest(before, after) {
  return makeTaps(before, after, 1, number => ({
    first: Math.floor(Math.min(number * (before / after), before - 1)), values: [1]}));
}

function area(before, after) {
  const reach = Math.ceil(before / after) + 1, scale = before / after;
  return makeTaps(before, after, reach, number => {
    const first = Math.floor(number * scale);
    return {first, values: Array.from({length: reach}, (_, i) => Math.max(
      0, Math.min(first + i + 1, (number + 1) * scale) - Math.max(first + i, number * scale)))};
  });
}

function areaEnlarged(before, after) {
  return around(before, after, number => {
    const first = Math.floor(number * (before / after));
    const shared = number + 1 - (first + 1) * (after / before);
    return first + (shared > 0 ? shared % 1 : 0);
  }, 1, linear);
}

// Pillow's (src/libImaging/Resample.c of Pillow 12): kernels are widened where an image shrinks, weights are integers,
// and lines are rounded to bytes before columns are computed. Pillow 13 begins with the columns of some images.

const BITS = 22;
const PILLOW = {
  box: [0.5, x => x > -0.5 && x <= 0.5 ? 1 : 0],
  area: [0.5, x => x > -0.5 && x <= 0.5 ? 1 : 0],
  bilinear: [1, x => linear(Math.abs(x))],
  hamming: [1, x => Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x))],
  bicubic: [2, x => cubic(Math.abs(x), -0.5)],
  lanczos: [3, x => Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0],
};

function pillow(interpolation) {
  if (interpolation === 'nearest') {
    return {make: nearestOfPillow, finish: (image, like) => ({...image, data: Uint8Array.from(image.data)})};
  }
  const make = (before, after) => widened(before, after, ...PILLOW[interpolation]);
  const finish = image => {
    const data = new Uint8Array(image.data.length);
    for (let i = 0; i < data.length; i++) {
      data[i] = Math.min(Math.max(Math.floor((image.data[i] + 2 ** (BITS - 1)) / 2 ** BITS), 0), 255);
    }
    return {...image, data};
  };
  return {make, finish};
}

function nearestOfPillow(before, after) {
  return makeTaps(before, after, 1, number => ({first: Math.floor((number + 0.5) * (before / after)), values: [1]}));
}

function widened(before, after, support, kernel) {
  const scale = before / after, wide = Math.max(scale, 1);
  const reach = Math.ceil(support * wide) * 2 + 1;
  const taps = makeTaps(before, after, reach, number => {
    const center = (number + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support * wide + 0.5));
    const end = Math.min(before, Math.trunc(center + support * wide + 0.5));
    return {first, values: Array.from({length: end - first}, (_, i) => kernel((i + first - center + 0.5) / wide))};
  });
  taps.weights = taps.weights.map(weight => Math.trunc(weight * 2 ** BITS + (weight < 0 ? -0.5 : 0.5)));
  return taps;
}
