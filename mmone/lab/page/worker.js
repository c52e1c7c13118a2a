// Computes, so that the page stays responsive: measures models, or answers for a picture.
import {readAnswer} from './answers.js';
import {toInput} from './images.js';
import {median, summarize, takeTurns, warmUp} from './protocol.js';

// Files of models that are in memory at once, in bytes; a phone's browser ends pages that take much.
const AT_ONCE = 150e6;

let ort, options, session = {}, before = Promise.resolve();

self.onmessage = ({data}) => {  // one after the other
  before = before.then(() => TASKS[data.task](data)).catch(error => {
    self.postMessage({is: 'error', text: describe(error)});
  });
};

const TASKS = {
  /** Load the runtime; says which number of threads it has. */
  async start({runtime, backend, threads}) {
    const base = new URL(runtime, self.location.href);
    ort = await import(new URL(backend === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.bundle.min.mjs', base));
    ort.env.logLevel = 'error';
    ort.env.wasm.numThreads = threads;
    options = {executionProviders: [backend], logSeverityLevel: 3};
  },

  async measure({models, runs, constants}) {
    let done = 0;
    // Loading, warming up and the first attempt; more where a model is unsteady.
    const progress = {total: models.length * 2 + models.length * Math.min(constants.rounds, runs)};
    const step = (text, count = 1) => {
      self.postMessage({is: 'progress', done: done += count, total: progress.total, text});
    };
    for (const group of groups(models)) {
      const ready = [];
      for (const model of group) {
        const began = performance.now();
        try {
          step(`loading ${model.title}`);
          ready.push({...await prepare(model), began});
          step(`warming up ${model.title}`);
          await warmUp(ready.at(-1).run, constants);
        } catch (error) {
          if (ready.at(-1)?.model === model) await ready.pop().release();
          progress.total -= Math.min(constants.rounds, runs);
          self.postMessage({is: 'failed', name: model.name, text: describe(error)});
        }
      }
      await measureGroup(ready, runs, constants, progress, step);
      for (const each of ready) await each.release();
      self.postMessage({is: 'group'});
    }
    self.postMessage({is: 'done'});
  },

  async predict({model, image}) {
    const input = toInput(image, model.meta), shape = [1, 3, input.height, input.width];
    if (session.name !== model.name) {
      await session.release?.();
      session = {};
      session = {...await open(model), name: model.name};
      await session.compute(input.data, shape);  // the first takes longer
    }
    const began = performance.now();
    const outputs = await session.compute(input.data, shape);
    const milliseconds = performance.now() - began;
    const answer = readAnswer(outputs, model.meta, input, image);
    self.postMessage({is: 'answer', answer, milliseconds, threads: ort.env.wasm.numThreads});
  },
};

function groups(models) {
  const found = [];
  let bytes = Infinity;
  for (const model of models) {
    if (bytes + model.bytes > AT_ONCE) {
      found.push([]);
      bytes = 0;
    }
    found.at(-1).push(model);
    bytes += model.bytes;
  }
  return found;
}

async function measureGroup(ready, runs, constants, progress, step) {
  const best = new Map();
  let left = ready;
  for (let attempt = 0; attempt < constants.attempts && left.length; attempt++) {
    if (attempt) progress.total += left.length * Math.min(constants.rounds, runs);
    const times = await takeTurns(left, runs, constants, (each, soFar) => {
      self.postMessage({is: 'turn', name: each.model.name, median: median(soFar)});
      step(`measuring ${each.model.title}${attempt ? ' again, since it was unsteady' : ''}`);
    });
    for (const each of left) {
      const latency = summarize(times.get(each), constants);
      if (!best.has(each) || spread(latency) < spread(best.get(each))) best.set(each, latency);
    }
    left = left.filter(each => !best.get(each).steady);
  }
  for (const [each, latency] of best) {
    const seconds = (performance.now() - each.began) / 1000;
    self.postMessage({is: 'measured', name: each.model.name, latency, seconds, threads: ort.env.wasm.numThreads});
  }
}

const spread = latency => (latency.p90 - latency.p10) / latency.median;

/** A model with `run`, which computes an image of noise, from an array to an array, and returns its milliseconds. */
async function prepare(model) {
  const {compute, release} = await open(model);
  const {dtype, shape} = model.input;
  const size = shape.reduce((a, b) => a * b);
  const data = dtype === 'uint8' ? Uint8Array.from({length: size}, () => Math.random() * 256)
    : Float32Array.from({length: size}, () => Math.random() * 2 - 1);
  const run = async () => {
    const began = performance.now();
    await compute(data, shape);
    return performance.now() - began;
  };
  return {model, run, release};
}

async function open(model) {
  const response = await fetch(model.address);
  if (!response.ok) throw new Error(`the server answers ${response.status}`);
  const opened = await ort.InferenceSession.create(new Uint8Array(await response.arrayBuffer()), options);
  const compute = async (data, shape) => {
    const outputs = await opened.run({images: new ort.Tensor(model.input.dtype, data, shape)});
    for (const name of Object.keys(outputs)) await outputs[name].getData();  // to where JavaScript reads it
    return outputs;
  };
  return {compute, release: () => opened.release()};
}

function describe(error) {
  const text = String(error?.message ?? error).split('\n')[0];
  return /memory|allocat|RangeError|std::bad_alloc/i.test(text) || typeof error === 'number'
    ? 'it does not fit the memory that this browser gives a page' : text;
}
