// Opens shared libraries by absolute path and with global scope, so that the names an addon needs are already
// there when the addon itself is opened. Plain Node-API and no libtorch: this file must load on any machine.
#include <node_api.h>

#include <cstdlib>
#include <string>
#include <vector>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace {

// Opens one library for the life of the process; an empty string, or the reason in words.
std::string Open(const std::string& path) {
#if defined(_WIN32)
  const int length = MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring wide(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, wide.data(), length);
  if (LoadLibraryExW(wide.c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH)) return "";
  return path + ": error " + std::to_string(GetLastError());
#else
  // Now: an undefined symbol is reported here, by name, and not in the middle of a training.
  // The handle is never closed: libtorch keeps threads and static objects that cannot be unloaded.
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) return "";
  const char* reason = dlerror();
  return reason ? reason : path + ": unknown error";
#endif
}

bool ReadString(napi_env env, napi_value value, std::string* text) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) return false;
  std::vector<char> buffer(length + 1);
  if (napi_get_value_string_utf8(env, value, buffer.data(), buffer.size(), &length) != napi_ok) return false;
  text->assign(buffer.data(), length);
  return true;
}

// libgomp reads its settings when it is opened. Its threads spin for milliseconds at every barrier, which is
// right when every core is theirs and ruinous when the event loop or another program wants one: measured, a
// busy machine took 5 to 10 times longer. the
// user's own settings win.
class SpinBriefly {
 public:
  SpinBriefly() {
#if !defined(_WIN32)
    if (getenv("OMP_WAIT_POLICY") != nullptr || getenv(kName) != nullptr) return;
    set_ = setenv(kName, "4000", 0) == 0;
#endif
  }
  ~SpinBriefly() {
#if !defined(_WIN32)
    if (set_) unsetenv(kName);  // nothing of this is left for child processes
#endif
  }

 private:
  static constexpr const char* kName = "GOMP_SPINCOUNT";
  bool set_ = false;
};

// load(paths: string[]): void — in order; throws with the dynamic linker's words at the first that does not
// open.
napi_value Load(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value paths;
  napi_get_cb_info(env, info, &argc, &paths, nullptr, nullptr);
  bool is_array = false;
  if (argc == 1) napi_is_array(env, paths, &is_array);
  if (!is_array) {
    napi_throw_type_error(env, nullptr, "load expects an array of paths");
    return nullptr;
  }
  const SpinBriefly spin_briefly;
  uint32_t count = 0;
  napi_get_array_length(env, paths, &count);
  for (uint32_t i = 0; i < count; ++i) {
    napi_value element;
    std::string path;
    if (napi_get_element(env, paths, i, &element) != napi_ok || !ReadString(env, element, &path)) {
      napi_throw_type_error(env, nullptr, "load expects an array of paths");
      return nullptr;
    }
    const std::string reason = Open(path);
    if (!reason.empty()) {
      napi_throw_error(env, nullptr, reason.c_str());
      return nullptr;
    }
  }
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value load;
  if (napi_create_function(env, "load", NAPI_AUTO_LENGTH, Load, nullptr, &load) == napi_ok) {
    napi_set_named_property(env, exports, "load", load);
  }
  return exports;
}
