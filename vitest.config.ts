import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    // A process of its own for every file: the addon keeps process-wide state (its compute thread, libtorch's pools),
    // and a crash of one file must not take the others with it.
    pool: 'forks',
    // One thread each, two files at once: tiny models gain nothing from more, and threads that wait for each other on a
    // busy machine slow everything down. Tests that need more call setThreads.
    env: { OMP_NUM_THREADS: '1' },
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    teardownTimeout: 10_000,
  },
});
