// The page: lists what is served, measures it, sends what was measured, and tries pictures.
import {drawBars, element, milliseconds} from './chart.js';
import {capabilities, describeDevice} from './device.js';
import {decode, obstacle, show} from './picture.js';

const get = id => document.getElementById(id);
const settings = get('settings');
let lab, device, able, worker;

async function begin() {
  if (typeof WebAssembly !== 'object') throw new Error('This browser has no WebAssembly: take a newer one.');
  const response = await fetch('lab.json');
  if (!response.ok) throw new Error(`The server answers ${response.status}.`);
  [lab, device, able] = [await response.json(), await describeDevice(), await capabilities()];
  describe();
  offer();
  get('start').disabled = false;
}

function describe() {
  const facts = {
    Browser: `${device.browser} ${device.version}`, System: [device.device, device.system].filter(Boolean).join(', '),
    Processor: [device.cores && `${device.cores} cores`, device.processor].filter(Boolean).join(', ') || 'not told',
    'Computes by': `WebAssembly, ${plural(able.threads, 'thread')}${able.gpu ? `; WebGPU on ${able.gpu}` : ''}`,
  };
  get('device').replaceChildren(...Object.entries(facts).map(([name, value]) =>
    element('div', {}, element('dt', {}, name), element('dd', {}, value))));
  if (!able.isolated) {
    get('isolation').textContent = able.secure ? 'This browser does not isolate the page: one thread, and a coarse clock.'
      : 'Browsers give several threads and WebGPU to pages of https:// and of localhost only; this one has one thread and '
        + 'a coarse clock. docs/lab.md says how to have a secure address.';
    get('isolation').hidden = false;
  }
  get('versions').textContent = `ONNX Runtime Web ${lab.version}, served by mmone ${lab.mmone}`;
}

function offer() {
  const {backend, threads, runs} = settings.elements;
  backend.append(new Option('WebAssembly (CPU)', 'wasm'));
  if (able.gpu) backend.append(new Option('WebGPU', 'webgpu'));
  const counts = [1, 2, 4, 6, 8, 12, 16].filter(count => count < able.threads).concat(able.threads);
  threads.append(...counts.map(count => new Option(count, count)));
  threads.value = counts.findLast(count => count <= 4);
  runs.value = lab.constants.runs;
  backend.onchange = () => { threads.disabled = backend.value === 'webgpu'; };
  get('models').replaceChildren(...lab.models.map(model => element('label', {className: 'model'},
    element('input', {type: 'checkbox', name: 'model', value: model.name, checked: true}),
    element('span', {}, model.title), element('span', {className: 'about'}, about(model)))));
  const all = get('all'), boxes = () => [...settings.querySelectorAll('[name=model]')];
  all.onchange = () => boxes().forEach(box => { box.checked = all.checked; });
  get('models').onchange = () => {
    const checked = boxes().filter(box => box.checked).length;
    all.checked = checked === boxes().length;
    all.indeterminate = checked > 0 && !all.checked;
  };
  const usable = lab.models.filter(model => !obstacle(model.meta));
  get('model').append(...usable.map(model => new Option(`${model.title} (${model.meta.task})`, model.name)));
  get('photo').hidden = !navigator.maxTouchPoints;  // a computer on a desk has no camera to hold up
  get('no-picture').hidden = usable.length > 0;
  get('try').hidden = !usable.length;
}

function about({meta, input, bytes, precision}) {
  const size = `${input.shape[2]}×${input.shape[3]}`;
  return [meta?.task ?? 'network', size, precision === 'float32' ? '' : precision, `${(bytes / 1e6).toFixed(1)} MB`]
    .filter(Boolean).join(', ');
}

// Measuring

async function measure() {
  const chosen = new Set(new FormData(settings).getAll('model'));
  const {backend: {value: backend}, threads: {value: threads}, runs: {value: runs}} = settings.elements;
  const entries = lab.models.filter(({name}) => chosen.has(name)).map(({name, title}) => ({name, title}));
  if (!entries.length) return say('Choose a model.');
  const find = name => entries.find(entry => entry.name === name);
  const unsent = [], draw = () => drawBars(get('bars'), entries);
  busy(true);
  const awake = await navigator.wakeLock?.request('screen').catch(() => null);  // a phone that sleeps is slow
  draw();
  get('stop').scrollIntoView({block: 'start'});
  const sending = [];
  const job = {task: 'measure', models: lab.models.filter(({name}) => chosen.has(name)), runs: Number(runs),
    constants: lab.constants};
  try {
    await working(backend, Number(threads), job, {
      progress({done, total, text}) {
        get('progress').firstElementChild.value = done / total;
        say(text[0].toUpperCase() + text.slice(1));
      },
      turn({name, median}) { find(name).median = median; draw(); },
      failed({name, text}) { find(name).failed = text; draw(); },
      measured({name, latency, seconds, threads}) {
        find(name).latency = latency;
        draw();
        got(backend, threads);
        unsent.push({model: name, device: backend, threads: backend === 'wasm' ? threads : 0, seconds, ...latency});
      },
      group() { if (unsent.length) sending.push(send(unsent.splice(0))); },
    });
    entries.sort((a, b) => (a.latency?.median ?? Infinity) - (b.latency?.median ?? Infinity));
    draw();
    say('Done.');
    await report(sending);
  } catch (error) {
    say(error.message);
    if (sending.length) await report(sending);
  }
  await awake?.release();
  busy(false);
}

function busy(is) {
  get('start').disabled = is;
  get('stop').hidden = get('progress').hidden = !is;
  for (const control of settings.querySelectorAll('select, input')) control.disabled = is;
  settings.elements.threads.disabled ||= settings.elements.backend.value === 'webgpu';
  if (is) {
    get('chart').hidden = false;
    get('sent').textContent = get('backend').textContent = '';
  }
}

function got(backend, threads) {
  get('backend').textContent = `Computed by ${backend === 'webgpu' ? `WebGPU on ${able.gpu}`
    : `WebAssembly with SIMD and ${plural(threads, 'thread')}`}, ONNX Runtime Web ${lab.version}.`;
}

async function send(measurements) {
  const response = await fetch('results', {
    method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify({machine: device, measurements})});
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()).kept;
}

async function report(sending) {
  const results = await Promise.allSettled(sending);
  const kept = results.reduce((sum, {value = 0}) => sum + value, 0);
  const problem = results.find(({reason}) => reason)?.reason.message;
  get('sent').textContent = [kept && `${plural(kept, 'measurement')} sent to the lab's file.`,
    problem && `Not sent: ${problem}`].filter(Boolean).join(' ');
}

/** Give a new worker a job, and its messages to `handlers`, until it is done. */
function working(backend, threads, job, handlers) {
  return new Promise((resolve, reject) => {
    worker = new Worker('worker.js', {type: 'module'});
    const end = finish => {
      get('stop').onclick = null;
      worker.terminate();
      finish();
    };
    get('stop').onclick = () => end(() => reject(new Error('Stopped. What was under way was not kept.')));
    worker.onerror = ({message}) => end(() => reject(new Error(message || 'The worker could not be started.')));
    worker.onmessage = ({data}) => {
      if (data.is === 'done') end(resolve);
      else if (data.is === 'error') end(() => reject(new Error(data.text)));
      else handlers[data.is](data);
    };
    worker.postMessage({task: 'start', runtime: lab.runtime, backend, threads: backend === 'wasm' ? threads : 1});
    worker.postMessage(job);
  });
}

function say(text) {
  get('status').textContent = text;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

settings.onsubmit = event => {
  event.preventDefault();
  measure();
};

// Pictures

let painter, chosen, before = Promise.resolve();

function see() {  // one after the other
  if (chosen) before = before.then(look);
}

async function look() {
  const model = lab.models.find(({name}) => name === get('model').value);
  get('seeing').textContent = 'Looking …';
  try {
    const {image, bitmap} = await decode(chosen, model.meta);
    const {answer, milliseconds: time, threads} = await answered(model, image);
    get('seen').hidden = false;
    show(get('view'), get('answer'), bitmap, image, answer, model.meta);
    get('seeing').textContent = `${model.title}: ${milliseconds(time)}, WebAssembly with ${plural(threads, 'thread')}`;
  } catch (error) {
    get('seen').hidden = true;
    get('seeing').textContent = error.message;
  }
}

function answered(model, image) {
  if (!painter) {
    painter = new Worker('worker.js', {type: 'module'});
    painter.postMessage({task: 'start', runtime: lab.runtime, backend: 'wasm', threads: Math.min(able.threads, 4)});
  }
  return new Promise((resolve, reject) => {
    painter.onmessage = ({data}) => data.is === 'answer' ? resolve(data) : reject(new Error(data.text));
    painter.onerror = ({message}) => reject(new Error(message || 'The worker could not be started.'));
    painter.postMessage({task: 'predict', model, image});
  });
}

for (const id of ['camera', 'file']) {
  get(id).onchange = ({target}) => {
    chosen = target.files[0] ?? chosen;
    target.value = '';  // so that the same file can be chosen again
    see();
  };
}
get('model').onchange = see;

begin().catch(error => {
  get('problem').textContent = error.message;
  get('problem').hidden = false;
});
