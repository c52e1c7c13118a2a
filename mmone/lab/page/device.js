// What this browser says of itself and of the machine it is on.

/** The description that the server takes, with an id by which this browser is known again. */
export async function describeDevice() {
  const told = await fromHints().catch(() => null) ?? fromAgent(navigator.userAgent);
  return {
    id: ownId(), browser: plain(told.browser) || 'browser', version: plain(told.version),
    system: plain(told.system) || 'unknown system', device: plain(told.device),
    processor: plain([told.architecture, graphics()].filter(Boolean).join(', ')),
    cores: navigator.hardwareConcurrency ?? null, memory: navigator.deviceMemory ?? null,
  };
}

/** Client hints, which Chromium gives to pages of a secure address. */
async function fromHints() {
  if (!navigator.userAgentData) return null;
  const hints = await navigator.userAgentData.getHighEntropyValues(
    ['architecture', 'bitness', 'model', 'platformVersion', 'fullVersionList']);
  const brands = hints.fullVersionList ?? navigator.userAgentData.brands;
  const named = brands.filter(({brand}) => !/not.?a.?brand/i.test(brand));
  const {brand, version} = named.find(({brand}) => brand !== 'Chromium') ?? named[0] ?? {brand: 'Chromium', version: ''};
  return {
    browser: brand.replace(/^Google /, ''), version: version.split('.')[0],
    system: [hints.platform, hints.platformVersion].filter(Boolean).join(' '),
    device: hints.model, architecture: [hints.architecture, hints.bitness].filter(Boolean).join(' '),
  };
}

const BROWSERS = {Edg: 'Edge', EdgA: 'Edge', OPR: 'Opera', SamsungBrowser: 'Samsung Internet', FxiOS: 'Firefox',
  CriOS: 'Chrome', Firefox: 'Firefox', Chrome: 'Chrome', Version: 'Safari'};

/** The same out of the text that every browser sends. */
export function fromAgent(agent) {
  const token = Object.keys(BROWSERS).find(name => agent.includes(`${name}/`));
  const parts = (/\(([^)]*)\)/.exec(agent)?.[1] ?? '').split(/;\s*/);
  const iOS = /^iP/.test(parts[0]) && /OS (\d+)_(\d+)/.exec(agent);
  const android = /Android [\d.]+/.exec(agent)?.[0];
  const model = /; Android [\d.]+; ([^;)]+?)(?: Build\/|[;)])/.exec(agent)?.[1];
  return {
    browser: BROWSERS[token], version: token && new RegExp(`${token}/(\\d+)`).exec(agent)?.[1],
    system: iOS ? `iOS ${iOS[1]}.${iOS[2]}` : android ?? parts.slice(0, 2).join(' '),
    device: iOS ? parts[0] : model && model !== 'K' ? model : '',
    architecture: '',
  };
}

/** The graphics processor, by which phones are told apart; '' if there is none, or the browser hides it. */
function graphics() {
  const gl = document.createElement('canvas').getContext('webgl', {failIfMajorPerformanceCaveat: true});
  const extension = gl?.getExtension('WEBGL_debug_renderer_info');
  const name = extension ? String(gl.getParameter(extension.UNMASKED_RENDERER_WEBGL)) : '';
  gl?.getExtension('WEBGL_lose_context')?.loseContext();
  if (/SwiftShader|llvmpipe/.test(name)) return '';  // a processor that plays one
  return /^ANGLE \([^,]*, ([^,]*)/.exec(name)?.[1] ?? name;
}

function ownId() {
  const made = Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, '0')).join('');
  try {
    if (!/^[0-9a-f]{32}$/.test(localStorage.mmoneLab ?? '')) localStorage.mmoneLab = made;
    return localStorage.mmoneLab;
  } catch {  // storage is forbidden: known until the page is left
    return made;
  }
}

/** What the server takes of a text. */
function plain(text) {
  return String(text ?? '').replace(/[^\p{L}\p{N}_ .,:;()/+-]+/gu, ' ').trim().slice(0, 200);
}

/** What can compute here: the most threads, and the GPU's name if there is one for WebGPU. */
export async function capabilities() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const {vendor = '', architecture = '', description = ''} = adapter?.info ?? {};
  return {
    isolated: self.crossOriginIsolated === true,
    secure: self.isSecureContext === true,
    threads: self.crossOriginIsolated ? navigator.hardwareConcurrency ?? 1 : 1,
    gpu: adapter && (description || [vendor, architecture].filter(Boolean).join(' ') || 'a GPU'),
  };
}
