// A vitest reporter that leaves counts and the reasons of skips in the file named by SELFEDIT_VITEST_SUMMARY.
import { writeFileSync } from 'node:fs';

export default class Summary {
  onTestRunEnd(modules, unhandled) {
    const summary = { passed: 0, failed: unhandled.length, skipped: [] };
    for (const module of modules) {
      let own = 0;
      for (const test of module.children.allTests()) {
        own++;
        const result = test.result();
        if (result.state === 'passed') summary.passed++;
        else if (result.state === 'skipped')
          summary.skipped.push({ name: test.fullName, reason: result.note ?? '' });
        else summary.failed++; // failed, or never finished
      }
      // A file or a suite that fails outside its tests (an import, a hook) has failed, whatever its tests say.
      const suites = [...module.children.allSuites()].filter((s) => s.errors().length > 0).length;
      const errors = module.errors().length > 0 || (own === 0 && module.state() === 'failed') ? 1 : 0;
      summary.failed += suites + errors;
    }
    writeFileSync(process.env.SELFEDIT_VITEST_SUMMARY, JSON.stringify(summary));
  }
}
