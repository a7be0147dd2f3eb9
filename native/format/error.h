// The one exception type of native code: a stable code (see lib/errors.ts) and a message that names the
// thing.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

namespace selfedit {

class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const { return code_; }

 private:
  std::string code_;
};

}  // namespace selfedit
