// How latency is measured: mmone/lab/protocol.py in the browser. Its constants come from there, with the list of models.

export function median(values) {
  return percentile(values, 50);
}

export function percentile(values, percent) {
  const sorted = [...values].sort((a, b) => a - b);
  const place = (sorted.length - 1) * percent / 100;
  const below = Math.floor(place), above = Math.ceil(place);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

/** How many runs of a model each round has. */
export function chunks(runs, constants) {
  const rounds = Math.min(constants.rounds, runs);
  return Array.from({length: rounds}, (_, i) => Math.floor(runs / rounds) + (i < runs % rounds ? 1 : 0));
}

/** Times without outliers. */
export function kept(times, constants) {
  const middle = median(times);
  const deviation = 1.4826 * median(times.map(time => Math.abs(time - middle)));
  const limit = middle + constants.deviations * Math.max(deviation, constants.clock * middle);
  return times.filter(time => time <= limit);
}

/** What a measurement says, from the milliseconds of all its runs. */
export function summarize(times, constants) {
  const rest = kept(times, constants);
  const [p10, middle, p90] = [10, 50, 90].map(percent => percentile(rest, percent));
  const discarded = times.length - rest.length;
  return {
    runs: rest.length, discarded, median: middle, p10, p90, minimum: Math.min(...rest),
    steady: p90 - p10 < constants.spread * middle && discarded <= constants.outliers * times.length,
  };
}

/** Run until times are stable; `run` returns the milliseconds that it took. */
export async function warmUp(run, constants, now = () => performance.now()) {
  const end = now() + constants.warm_up_seconds * 1000;
  for (let before = Infinity; ;) {
    const times = [];
    while (times.length < constants.window) times.push(await run());
    const after = median(times);
    if (Math.abs(after - before) < constants.stable * after || now() >= end) return;
    before = after;
  }
}

/** Time models that take turns. `models` have `run`; `onTurn(model, times)` is told after each turn. */
export async function takeTurns(models, runs, constants, onTurn) {
  const times = new Map(models.map(model => [model, []]));
  for (const [round, count] of chunks(runs, constants).entries()) {
    for (const model of round % 2 ? [...models].reverse() : models) {
      await new Promise(resolve => setTimeout(resolve, constants.rest * 1000));
      await model.run();
      for (let i = 0; i < count; i++) times.get(model).push(await model.run());
      onTurn(model, times.get(model));
    }
  }
  return times;
}
