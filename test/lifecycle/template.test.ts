/** The worker that renders chat templates, in programs on the compiled package. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { packageRoot } from '../../lib/load.js';
import { fixture } from '../support/fixtures.js';
import { child, wellEnded } from './child.js';

const folder = JSON.stringify(fixture('tokenizer', 'tiny')).replaceAll('"', "'");
const host = pathToFileURL(join(packageRoot, 'dist', 'tokenizer', 'template-host.js')).href;
const hi = "[{ role: 'user', content: 'Hi' }]";

describe('rendering a chat', () => {
  it('keeps no process alive and prints nothing', async () => {
    const source = `
      const tokenizer = await se.Tokenizer.fromFolder(${folder});
      console.log(tokenizer.chat(${hi}).split('<|im_start|>').length);`;
    expect(await child(source)).toEqual(wellEnded('4'));
  });

  it('goes on after a template that had to be stopped, and the process still ends', async () => {
    const source = `
      const { renderTemplate } = await import('${host}');
      const loop = '{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}';
      for (let i = 0; i < 3; i++) {
        try { renderTemplate(loop, {}); } catch (error) { console.log(error.code); }
        console.log(renderTemplate('{{ i }}', { i }));
      }`;
    const lines = [0, 1, 2].flatMap((i) => ['TEMPLATE_INVALID', i]).join('\n');
    expect(await child(source)).toEqual(wellEnded(lines));
  });

  it('works in worker threads, several at once', async () => {
    const source = `
      const ask = () => start(\`
        const tokenizer = await se.Tokenizer.fromFolder(${folder});
        post(tokenizer.chat(${hi}).split('<|im_start|>').length);
      \`);
      const started = await Promise.all([ask(), ask(), ask()]);
      for (const { message, exited } of started) console.log(message, await exited);`;
    expect(await child(source)).toEqual(wellEnded('4 0\n4 0\n4 0'));
  });
});
