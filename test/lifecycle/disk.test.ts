/** A disk that is full while something is saved: the earlier file stays, and nothing half-written. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { child, wellEnded } from './child.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'selfedit-disk-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(process.platform === 'win32')('with a limit of 64 KiB (POSIX only: needs ulimit)', () => {
  const open = (name: string) => `
    import { readFileSync, readdirSync } from 'node:fs';
    const path = ${JSON.stringify(join(folder, name))};
    const model = await se.Model.random(config, { seed: 1 });
    const made = async (rank) =>
      (await se.adapt([{ fork: model, documents: [tokens(9)] }], { epochs: 1, rank, targets: ['all'] }))[0].delta;`;

  it('a delta', async () => {
    const source = `${open('delta')}
      await (await made(1)).save(path);
      const before = readFileSync(path + '/adapter_model.safetensors', 'base64');
      const error = await (await made(64)).save(path).catch((error) => error);
      console.log(error.name, error.code, error.message.includes(path));
      console.log(readFileSync(path + '/adapter_model.safetensors', 'base64') === before, readdirSync(path).length);
      console.log((await se.Delta.load(model, path)).parts[0].rank);`;
    expect(await child(source, { fileLimit: 64 })).toEqual(wellEnded('WorkError IO true\ntrue 2\n1'));
  });

  it('an edit head', async () => {
    const source = `${open('head')}
      const policy = se.Policy.create(model, { rank: 1 });
      const small = await se.EditHead.create(policy, { targets: ['layers.0.self_attn.q_proj'] });
      await small.save(path);
      const before = readFileSync(path, 'base64');
      const large = await se.EditHead.create(policy, { space: 'lowRank', targets: ['all'], size: 10 });
      const error = await large.save(path).catch((error) => error);
      console.log(error.name, error.code, error.message.includes('An earlier file of this name is unchanged'));
      console.log(readFileSync(path, 'base64') === before, large.version);
      await small.load(path);`;
    expect(await child(source, { fileLimit: 64 })).toEqual(wellEnded('WorkError IO true\ntrue 0'));
  });

  it('a policy', async () => {
    const source = `${open('policy')}
      const small = se.Policy.create(model, { rank: 1, targets: ['q_proj'] });
      await small.save(path);
      const before = readFileSync(path, 'base64');
      const large = se.Policy.create(model, { rank: 64 });
      const error = await large.save(path).catch((error) => error);
      console.log(error.name, error.code, error.message.includes('An earlier file of this name is unchanged'));
      console.log(readFileSync(path, 'base64') === before, large.version);
      await small.load(path);`;
    expect(await child(source, { fileLimit: 64 })).toEqual(wellEnded('WorkError IO true\ntrue 0'));
  });
});
