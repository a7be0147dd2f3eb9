# node-gyp reads this instead of Node's own headers, which it would otherwise download: binding.gyp compiles nothing, and
# CMake takes the headers from the package node-api-headers (see "config" in package.json).
{
  "variables": {},
  "target_defaults": {
    "default_configuration": "Release",
    "configurations": {"Release": {}, "Debug": {}}
  }
}
