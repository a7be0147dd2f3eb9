/** The package as a user gets it: packed, installed into an empty project elsewhere, imported, type-checked, run. */
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const repository = join(import.meta.dirname, '../..');
const release = join(repository, 'build/Release');
const tsc = join(repository, 'node_modules/typescript/bin/tsc');
let folder: string;
let project: string;
let installed: string;
let environment: NodeJS.ProcessEnv;

interface Result {
  status: number | null;
  stdout: string;
  stderr: string;
}

function run(command: string, args: string[], env: NodeJS.ProcessEnv = {}, cwd = project): Result {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...environment, ...env },
  });
  return { status, stdout, stderr: error ? error.message : stderr };
}
const node = (args: string[], env: NodeJS.ProcessEnv = {}) => run(process.execPath, args, env);
const evaluate = (source: string, type: 'module' | 'commonjs', env: NodeJS.ProcessEnv = {}) =>
  node([`--input-type=${type}`, '--disable-warning=ExperimentalWarning', '-e', source], env);

beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'selfedit-package-')));
  project = join(folder, 'project');
  // Without what npm told the test runner about itself.
  environment = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(npm_|VITEST|NODE_)/i.test(name)),
  );
  mkdirSync(project);
  const pack = ['pack', '--ignore-scripts', '--json', '--pack-destination', folder];
  const packed = run('npm', pack, {}, repository);
  expect(packed.stderr).not.toMatch(/npm error/);
  const archive = readdirSync(folder).find((file) => file.endsWith('.tgz'));
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'consumer', private: true }));
  // The install script runs, and takes the addon that the tests run on: compiling it again would take minutes.
  const install = [
    'install',
    '--prefer-offline',
    '--no-audit',
    '--no-fund',
    '--foreground-scripts',
    join(folder, archive ?? ''),
  ];
  const result = run('npm', install, { SELFEDIT_PREBUILT_DIR: release });
  expect(result).toMatchObject({ status: 0 });
  expect(result.stdout + result.stderr).toContain(`selfedit: took the addon from ${release}`);
  installed = join(project, 'node_modules/selfedit');
}, 300_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

// The type checker alone takes a while beside other tests.
describe('the packed package', { timeout: 240_000 }, () => {
  it('holds what is needed and nothing else', () => {
    const names = readdirSync(installed).sort();
    expect(names).toEqual(
      [
        'CHANGELOG.md',
        'CMakeLists.txt',
        'LICENSE',
        'README.md',
        'bench',
        'binding.gyp',
        'build',
        'dist',
        'examples',
        'native',
        'package.json',
        'scripts',
      ].filter((name) => name !== 'README.md' || existsSync(join(repository, name))),
    );
    expect(existsSync(join(installed, 'native/tests'))).toBe(false);
    expect(existsSync(join(installed, 'scripts/fixtures'))).toBe(false);
    expect(readdirSync(join(installed, 'bench')).filter((file) => file.endsWith('.cc'))).toEqual([]);
    for (const file of [
      'native/core',
      'scripts/cmake',
      'dist/index.d.ts',
      'bench/run.mjs',
      'bench/peers/common.py',
    ])
      expect(existsSync(join(installed, file))).toBe(true);
  });

  it.each(['module', 'commonjs'] as const)('is imported by a %s and loads the addon', (type) => {
    const bring =
      type === 'module' ? "import * as selfedit from 'selfedit';" : "const selfedit = require('selfedit');";
    const source = `${bring}
      selfedit.doctor().then((report) => console.log(JSON.stringify({ ...report, own: typeof selfedit.Model.load })));`;
    const result = evaluate(source, type);
    expect(result.stderr).toBe('');
    const report = JSON.parse(result.stdout);
    expect(report).toMatchObject({ ok: true, problems: [], own: 'function' });
    expect(report.addon.path).toBe(join(installed, 'build/Release/selfedit.node'));
  });

  it('exports nothing but its entry and package.json', () => {
    expect(evaluate("console.log(require('selfedit/package.json').name)", 'commonjs').stdout.trim()).toBe(
      'selfedit',
    );
    expect(evaluate("require('selfedit/dist/load.js')", 'commonjs').stderr).toContain(
      'ERR_PACKAGE_PATH_NOT_EXPORTED',
    );
  });

  it('has types for both kinds of modules', () => {
    const consumer = join(repository, 'test/package/consumer');
    for (const file of readdirSync(consumer)) copyFileSync(join(consumer, file), join(project, file));
    const types = join(project, 'node_modules/@types');
    mkdirSync(types, { recursive: true });
    const nodeTypes = join(repository, 'node_modules/@types/node');
    if (!existsSync(join(types, 'node'))) symlinkSync(nodeTypes, join(types, 'node'));
    const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', '--types', 'node'];
    const result = node([tsc, ...options, '--lib', 'es2023,esnext.disposable', 'esm.mts', 'cjs.cts']);
    expect(result.stdout).toBe('');
    expect(result.status).toBe(0);
  });

  it('has a command', () => {
    const { status, stdout } = run(join(project, 'node_modules/.bin/selfedit'), ['doctor', '--json']);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, addon: { loads: true } });
  });

  it('runs the example, compiled', () => {
    const examples = join(installed, 'examples');
    for (const file of ['corpus.json', 'retention.json'])
      copyFileSync(join(examples, file), join(project, file));
    copyFileSync(join(examples, 'loop.ts'), join(project, 'loop.mts'));
    const options = [
      '--strict',
      '--module',
      'nodenext',
      '--target',
      'es2022',
      '--types',
      'node',
      '--skipLibCheck',
    ];
    const compiled = node([tsc, ...options, '--lib', 'es2023,esnext.disposable', 'loop.mts']);
    expect(compiled).toMatchObject({ status: 0, stdout: '' });
    // A tiny random model; its positions are computed, so it takes longer prompts than it was made for.
    const model = join(project, 'model');
    cpSync(join(repository, 'test/fixtures/models/llama-tied'), model, { recursive: true });
    const config = JSON.parse(readFileSync(join(model, 'config.json'), 'utf8'));
    writeFileSync(join(model, 'config.json'), JSON.stringify({ ...config, max_position_embeddings: 2048 }));
    for (const [options, edits] of [
      [[], 6],
      [['--edit', 'weights'], 8],
    ] as const) {
      const result = node(['loop.mjs', ...options, model]);
      expect(result).toMatchObject({ status: 0, stderr: '' });
      expect(result.stdout).toMatch(
        new RegExp(
          `^round 1: mean reward -?\\d+\\.\\d{3} .*${edits} edits\nround 2: mean reward -?\\d+\\.\\d{3} .*\n$`,
        ),
      );
    }
  });

  it('finds another libtorch when the one it was built with is gone', () => {
    const file = join(installed, 'build/Release/libtorch.json');
    const facts = JSON.parse(readFileSync(file, 'utf8'));
    writeFileSync(file, JSON.stringify({ ...facts, root: '/nonexistent/libtorch' }));
    const source = "import { doctor } from 'selfedit'; console.log(JSON.stringify(await doctor()));";
    const alone = { SELFEDIT_CACHE: join(folder, 'no-cache'), SELFEDIT_PYTHON: 'no-python', LIBTORCH: '' };
    try {
      const found = JSON.parse(evaluate(source, 'module', { ...alone, LIBTORCH: facts.root }).stdout);
      expect(found).toMatchObject({ ok: true, libtorch: { source: 'LIBTORCH', path: facts.root } });
      const lost = JSON.parse(evaluate(source, 'module', alone).stdout);
      expect(lost).toMatchObject({ ok: false, addon: { found: true, loads: false }, devices: [] });
      expect(lost.problems.join()).toContain('/nonexistent/libtorch: there is no such folder');
      expect(lost.next).toMatch(/^set LIBTORCH to a libtorch .* or run "npm rebuild selfedit"$/);
    } finally {
      writeFileSync(file, JSON.stringify(facts));
    }
  });
});

describe('the install script', { timeout: 120_000 }, () => {
  const script = () => node([join(installed, 'scripts/install.mjs')], { SELFEDIT_PREBUILT_DIR: '' });
  const withEnv = (env: NodeJS.ProcessEnv) =>
    node([join(installed, 'scripts/install.mjs')], { SELFEDIT_PREBUILT_DIR: '', ...env });
  const build = () => join(installed, 'build');
  const aside = () => join(folder, 'build-aside');

  it('skips when told so', () => {
    const result = withEnv({ SELFEDIT_SKIP_BUILD: '1' });
    expect(result.status).toBe(0);
    expect(result.stderr.trim().split('\n')).toHaveLength(1);
  });

  it('says what SELFEDIT_PREBUILT_DIR lacks', () => {
    const result = withEnv({ SELFEDIT_PREBUILT_DIR: folder });
    expect(result.status).toBe(1);
    expect(result.stderr).toContain('lacks selfedit.node, loader.node, libtorch.json');
  });

  it('without a toolchain prints one notice and exits 0; the package then gives a diagnosis', () => {
    spawnSync('mv', [build(), aside()]);
    try {
      // A PATH on which there is neither CMake nor a compiler.
      const result = withEnv({ PATH: folder, CXX: '' });
      expect(result.status).toBe(0);
      expect(result.stderr.trim().split('\n')).toHaveLength(1);
      expect(result.stderr).toMatch(/not built: CMake, a C\+\+20 compiler, make or Ninja not found/);
      const source = "import { doctor } from 'selfedit'; console.log(JSON.stringify(await doctor()));";
      const report = JSON.parse(evaluate(source, 'module').stdout);
      expect(report).toMatchObject({ ok: false, addon: { found: false, loads: false } });
      expect(report.next).toBe('run "npm rebuild selfedit" (needs CMake and a C++20 compiler)');
    } finally {
      rmSync(build(), { recursive: true, force: true });
      spawnSync('mv', [aside(), build()]);
    }
  });

  it('exits 1 when a build that started fails, also where there is an addon', () => {
    const result = withEnv({ LIBTORCH: '/nonexistent/libtorch' });
    expect(result.status).toBe(1);
    expect(result.stderr).toContain('LIBTORCH=/nonexistent/libtorch cannot be used: there is no such folder');
  });

  it('leaves an addon alone that was made from these sources', () => {
    // The package lacks the C++ tests, so its sources have a hash of their own.
    const url = JSON.stringify(new URL(`file://${join(installed, 'scripts/build.mjs')}`).href);
    const hash = evaluate(
      `import { sourceHash } from ${url}; console.log(sourceHash());`,
      'module',
    ).stdout.trim();
    writeFileSync(join(build(), 'Release/build.json'), JSON.stringify({ sources: hash, tests: false }));
    const result = script();
    expect(result).toMatchObject({ status: 0, stderr: 'selfedit: the addon is up to date\n' });
    // Naming another libtorch asks for another addon.
    expect(withEnv({ LIBTORCH: '/nonexistent/libtorch' }).status).toBe(1);
  });
});
