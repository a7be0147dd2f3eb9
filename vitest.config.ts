import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    // A process of its own for every file: the addon keeps process-wide state (its compute thread, libtorch's pools),
    // and a crash of one file must not take the others with it.
    pool: 'forks',
    // Two at once: the tests themselves use every core.
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    teardownTimeout: 10_000,
  },
});
