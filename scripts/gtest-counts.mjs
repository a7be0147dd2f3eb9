// What a run of the C++ tests came to.

/** Counts of a GoogleTest JSON report; the reasons of skips are in what the program printed. */
export function countGoogleTest(report, output) {
  const counts = { passed: 0, failed: 0, skipped: [] };
  for (const suite of report.testsuites ?? []) {
    for (const test of suite.testsuite ?? []) {
      const name = `${suite.name}.${test.name}`;
      if (test.failures?.length > 0) counts.failed++;
      else if (test.result === 'SKIPPED') counts.skipped.push({ name, reason: skipReason(name, output) });
      else if (test.status === 'NOTRUN') counts.skipped.push({ name, reason: 'disabled' });
      else counts.passed++;
    }
  }
  return counts;
}

function skipReason(name, output) {
  const start = output.indexOf(`[ RUN      ] ${name}\n`);
  const end = output.indexOf(`[  SKIPPED ] ${name}`, start);
  if (start < 0 || end < 0) return '';
  const text = output.slice(start, end).split('\n').slice(1);
  return text
    .filter((line) => !/: Skipped$/.test(line))
    .join(' ')
    .trim();
}
