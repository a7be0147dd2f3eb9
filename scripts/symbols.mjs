// Which symbols of an addon no library defines. The linker cannot say so itself: Node-API's come from the program that opens
// the addon, and OpenMP's from the runtime that libtorch has opened before.
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { basename } from 'node:path';

const run = (command, ...args) => execFileSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 30 });

/** Dynamic symbols as [type, name] pairs, without versions; nm's lower-case w and v are weak ones, which may stay open. */
function dynamicSymbols(file, which) {
  return run('nm', '-D', which, file)
    .split('\n')
    .map((line) => /(?:^|\s)([A-Za-z]) ([^\s@]+)(?:@\S+)?$/.exec(line))
    .filter(Boolean)
    .map(([, type, name]) => [type, name]);
}

/** Paths of the libraries that the dynamic linker takes for `file`, by name. */
function resolved(file) {
  const found = [...run('ldd', file).matchAll(/^\s*(\S+)(?: => (\S+))? \(0x/gm)];
  return new Map(found.map(([, name, path]) => [basename(name), path ?? name]));
}

function nodeSymbols() {
  const lists = createRequire(import.meta.url)('node-api-headers').symbols;
  return new Set(Object.values(lists).flatMap((v) => [...v.js_native_api_symbols, ...v.node_api_symbols]));
}

/**
 * Compares what `addon` takes with what the libraries it names, and the `libraries` opened before it, define.
 * Returns the libraries it names, the paths of all that were seen, how many symbols were compared, those that nobody defines (`open`), and among them
 * selfedit's own (`own`).
 */
export function openSymbols(addon, libraries) {
  const needed = [...run('readelf', '-d', addon).matchAll(/\(NEEDED\).*\[(.+)\]/g)].map(([, name]) => name);
  const paths = new Map([...resolved(addon)].filter(([, path]) => path.startsWith('/')));
  for (const library of libraries) {
    for (const [name, path] of resolved(library)) if (path.startsWith('/')) paths.set(name, path);
  }
  for (const library of libraries) paths.set(basename(library), library);
  const lacking = needed.filter((name) => !paths.has(name));
  if (lacking.length > 0) throw new Error(`${lacking.join(', ')}: needed by ${addon}, and not found`);
  const providers = new Set([...needed.map((name) => paths.get(name)), ...libraries]);
  const defined = nodeSymbols();
  for (const file of providers)
    for (const [, name] of dynamicSymbols(file, '--defined-only')) defined.add(name);
  const taken = dynamicSymbols(addon, '--undefined-only').filter(([type]) => type === 'U');
  const open = taken.map(([, name]) => name).filter((name) => !defined.has(name));
  // Mangled names of the namespace selfedit, as a scope or within a template argument.
  return {
    needed,
    paths,
    checked: taken.length,
    open,
    own: open.filter((name) => name.includes('8selfedit')),
  };
}
