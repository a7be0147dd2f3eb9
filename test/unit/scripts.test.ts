/** The scripts that bring GoogleTest, count results and guard the build folder. */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findGoogleTest } from '../../scripts/find-gtest.mjs';
import { countGoogleTest } from '../../scripts/gtest-counts.mjs';
import { withLock } from '../../scripts/lock.mjs';
import { temporary, write } from './helpers/libtorch.js';

let folder: string;
beforeEach(() => {
  folder = temporary();
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('GoogleTest', () => {
  const sources = (name: string) => {
    write(join(folder, name, 'googletest/src/gtest-all.cc'));
    return join(folder, name);
  };
  const nowhere = ['/nonexistent'];

  it('comes from GTEST_ROOT, then the usual places, then the distribution', async () => {
    const apt = async () => sources('apt');
    const own = sources('own');
    const usual = sources('usual');
    const places = [join(folder, 'nowhere'), usual];
    expect(await findGoogleTest({ env: { GTEST_ROOT: own }, places, apt })).toBe(own);
    expect(await findGoogleTest({ env: {}, places, apt })).toBe(usual);
    expect(await findGoogleTest({ env: {}, places: nowhere, apt })).toBe(join(folder, 'apt'));
  });

  it('that is nowhere is an error with the next step', async () => {
    const apt = () => Promise.reject(new Error('spawn apt-get ENOENT\nmore'));
    const error = await findGoogleTest({ env: {}, places: nowhere, apt }).then(String, String);
    expect(error).toContain('apt-get: spawn apt-get ENOENT)');
    expect(error).toMatch(/Next: install it .* or set GTEST_ROOT/);
    await expect(findGoogleTest({ env: { GTEST_ROOT: folder }, places: [], apt })).rejects.toThrow(
      /holds no GoogleTest/,
    );
  });
});

describe('the counts of the C++ tests', () => {
  it('tell passed, failed, skipped with the reason, and disabled apart', () => {
    const test = (name: string, more: object = {}) => ({ name, status: 'RUN', result: 'COMPLETED', ...more });
    const report = {
      testsuites: [
        {
          name: 'A',
          testsuite: [
            test('Good'),
            test('Bad', { failures: [{ failure: 'x' }] }),
            test('Skipped', { result: 'SKIPPED' }),
            test('Off', { status: 'NOTRUN', result: 'SUPPRESSED' }),
          ],
        },
        { name: 'B', testsuite: [test('Good/0'), test('Skipped', { result: 'SKIPPED' })] },
      ],
    };
    const output = [
      '[ RUN      ] A.Skipped',
      'native/tests/a_test.cc:9: Skipped',
      'no GPU on this machine',
      '',
      '[  SKIPPED ] A.Skipped (0 ms)',
    ].join('\n');
    expect(countGoogleTest(report, output)).toEqual({
      passed: 2,
      failed: 1,
      skipped: [
        { name: 'A.Skipped', reason: 'no GPU on this machine' },
        { name: 'A.Off', reason: 'disabled' },
        { name: 'B.Skipped', reason: '' },
      ],
    });
  });
});

describe('the lock of the build folder', () => {
  it('lets one in at a time, and is gone afterwards', async () => {
    const lock = join(folder, '.lock');
    const order: string[] = [];
    const work = (name: string) => async () => {
      order.push(`${name} in`);
      await sleep(50);
      order.push(`${name} out`);
    };
    await Promise.all([withLock(lock, () => {}, work('a')), withLock(lock, () => {}, work('b'))]);
    expect(order).toEqual(['a in', 'a out', 'b in', 'b out']);
    expect(existsSync(lock)).toBe(false);
  });

  it('is released when the work fails, and taken over from a process that is gone', async () => {
    const lock = join(folder, '.lock');
    const fails = withLock(
      lock,
      () => {},
      () => Promise.reject(new Error('compiler')),
    );
    await expect(fails).rejects.toThrow('compiler');
    write(join(lock, 'pid'), '999999999');
    expect(
      await withLock(
        lock,
        () => {},
        async () => 'done',
      ),
    ).toBe('done');
  });
});
