// libFuzzer target: any bytes as a GGUF file.
#include "use_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  selfedit::fuzz::UseAsFile({data, data + size}, selfedit::Format::kGguf);
  return 0;
}
