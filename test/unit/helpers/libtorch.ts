/** Fake libtorch folders, zip files and Pythons for the tests of the finder. */
import { chmodSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { libraryName } from '../../../scripts/libtorch/root.mjs';

export function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'selfedit-test-'));
}

export function write(path: string, text: string | Uint8Array = ''): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

export interface FakeTorch {
  version?: string;
  cuda?: string;
  headers?: boolean;
  /** 'python': version.py; 'archive': build-version; 'header': version.h only. */
  style?: 'python' | 'archive' | 'header';
}

/** Files of a libtorch, as paths inside its folder. */
export function torchFiles(fake: FakeTorch = {}): Record<string, string> {
  const { version = '2.13.0', cuda, headers = true, style = 'python' } = fake;
  const files: Record<string, string> = {};
  const libraries = ['libc10', 'libtorch_cpu', 'libtorch', ...(cuda ? ['libc10_cuda', 'libtorch_cuda'] : [])];
  for (const name of libraries) files[`lib/${libraryName(name)}`] = `fake ${name}`;
  files['lib/libgomp.so.1'] = 'fake gomp';
  if (headers) files['include/ATen/ATen.h'] = '// fake';
  const local = cuda ? `cu${cuda.replace('.', '')}` : 'cpu';
  if (style === 'archive') files['build-version'] = `${version}+${local}\n`;
  if (style === 'python') {
    const value = cuda ? `'${cuda}'` : 'None';
    files['version.py'] = `__version__ = '${version}'\ndebug = False\ncuda: Optional[str] = ${value}\n`;
  }
  if (style === 'header') {
    const names = ['MAJOR', 'MINOR', 'PATCH'];
    const lines = version.split('.').map((part, i) => `#define TORCH_VERSION_${names[i]} ${part}\n`);
    files['include/torch/headeronly/version.h'] = lines.join('');
  }
  return files;
}

export function fakeTorch(folder: string, fake: FakeTorch = {}): string {
  for (const [path, text] of Object.entries(torchFiles(fake))) write(join(folder, path), text);
  return folder;
}

/** A zip file with the given entries, every second one compressed. */
export function zip(entries: Record<string, string>): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [index, [name, text]] of Object.entries(entries).entries()) {
    const method = index % 2 === 0 ? 8 : 0;
    const data = method === 8 ? deflateRawSync(Buffer.from(text)) : Buffer.from(text);
    const nameBytes = Buffer.from(name);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(method, 4);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(Buffer.byteLength(text), 18);
    common.writeUInt16LE(nameBytes.length, 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, nameBytes, data]);
    const central = Buffer.alloc(46);
    central.write('PK\x01\x02', 0, 'latin1');
    common.copy(central, 6);
    central.writeUInt32LE((0o100755 << 16) >>> 0, 38);
    central.writeUInt32LE(at, 42);
    directory.push(central, nameBytes);
    parts.push(local);
    at += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 0, 'latin1');
  end.writeUInt16LE(Object.keys(entries).length, 8);
  end.writeUInt16LE(Object.keys(entries).length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...parts, central, end]);
}

/** A wheel of torch with some parts that are not needed. */
export function wheel(fake: FakeTorch = {}): Buffer {
  const entries: Record<string, string> = {};
  for (const [path, text] of Object.entries(torchFiles(fake))) entries[`torch/${path}`] = text;
  entries['torch/__init__.py'] = 'raise SystemExit';
  entries['torch/lib/libtorch_python.so'] = 'not needed';
  entries['torch-2.13.0.dist-info/licenses/LICENSE'] = 'BSD';
  return zip(entries);
}

export interface FakePython {
  /** What `find_spec('torch')` gives. */
  torch?: string;
  /** A file that `pip download` of torch brings, under the name given. */
  wheel?: { path: string; name: string };
  /** Requirements of the wheel, as `pip install --dry-run --report` tells them. */
  requires?: string[];
  /** Files that `pip download` of anything else brings. */
  beside?: string;
}

/** A program that answers like python3 to the finder's questions; it logs its arguments to `<path>.log`. */
export function fakePython(folder: string, fake: FakePython): string {
  const report = JSON.stringify({ install: [{ metadata: { requires_dist: fake.requires ?? [] } }] });
  const path = write(
    join(folder, 'python3'),
    `#!/bin/sh
echo "$*" >> "$0.log"
if [ "$1" = "-c" ]; then echo "${fake.torch ?? ''}"; exit 0; fi
shift 2
command=$1
torch=no
while [ $# -gt 0 ]; do
  case "$1" in
    --dest) dest=$2; shift ;;
    --report) report=$2; shift ;;
    torch==*) torch=yes ;;
  esac
  shift
done
if [ "$command" = install ]; then echo '${report}' > "$report"; exit 0; fi
if [ $torch = yes ]; then
  [ -n "${fake.wheel?.path ?? ''}" ] || { echo "ERROR: No matching distribution found" >&2; exit 1; }
  cp "${fake.wheel?.path ?? ''}" "$dest/${fake.wheel?.name ?? ''}"
else
  mkdir -p "$dest" && cp "${fake.beside ?? '/nonexistent'}"/* "$dest"
fi
`,
  );
  chmodSync(path, 0o755);
  return path;
}
