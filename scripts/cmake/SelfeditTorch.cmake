# Targets over the libtorch at SELFEDIT_TORCH_ROOT. TorchConfig.cmake is not used: on a CUDA build it insists on a whole CUDA
# toolkit, and it writes the absolute path of every library into what links to it.
#   selfedit_torch   include folders and libraries of ATen and c10
#   selfedit_openmp  -fopenmp, linked against the OpenMP runtime that libtorch itself ships: with two runtimes in one
#                    process, at::parallel_for and our own loops would own two sets of threads.
# By hand, without the build script: LIBTORCH or CMAKE_PREFIX_PATH.
foreach(folder $ENV{LIBTORCH} ${CMAKE_PREFIX_PATH})
  if(NOT SELFEDIT_TORCH_ROOT AND EXISTS "${folder}/include/ATen/ATen.h")
    set(SELFEDIT_TORCH_ROOT "${folder}")
  endif()
endforeach()
if(NOT EXISTS "${SELFEDIT_TORCH_ROOT}/include/ATen/ATen.h")
  message(FATAL_ERROR "No libtorch at SELFEDIT_TORCH_ROOT=\"${SELFEDIT_TORCH_ROOT}\" (include/ATen/ATen.h is missing). "
                      "Use `npm run build:native`, which finds or brings one.")
endif()
set(torch_lib "${SELFEDIT_TORCH_ROOT}/lib")

function(selfedit_import name file)
  add_library(${name} SHARED IMPORTED)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION "${file}")
  if(WIN32)
    string(REGEX REPLACE "\\.dll$" ".lib" implib "${file}")
    set_target_properties(${name} PROPERTIES IMPORTED_IMPLIB "${implib}")
  endif()
endfunction()

add_library(selfedit_torch INTERFACE)
target_include_directories(selfedit_torch SYSTEM INTERFACE
  "${SELFEDIT_TORCH_ROOT}/include" "${SELFEDIT_TORCH_ROOT}/include/torch/csrc/api/include")
foreach(part c10 torch_cpu torch)
  set(file "${torch_lib}/${CMAKE_SHARED_LIBRARY_PREFIX}${part}${CMAKE_SHARED_LIBRARY_SUFFIX}")
  if(NOT EXISTS "${file}")
    message(FATAL_ERROR "libtorch at ${SELFEDIT_TORCH_ROOT} lacks ${file}")
  endif()
  selfedit_import(selfedit_torch_${part} "${file}")
  target_link_libraries(selfedit_torch INTERFACE selfedit_torch_${part})
endforeach()

add_library(selfedit_openmp INTERFACE)
file(GLOB torch_gomp "${torch_lib}/libgomp*.so*" "${torch_lib}/libomp.dylib" "${torch_lib}/libiomp5.*")
if(torch_gomp AND NOT MSVC)
  list(GET torch_gomp 0 torch_gomp)
  selfedit_import(selfedit_torch_gomp "${torch_gomp}")
  if(APPLE)
    target_compile_options(selfedit_openmp INTERFACE -Xpreprocessor -fopenmp)
  else()
    target_compile_options(selfedit_openmp INTERFACE -fopenmp)
  endif()
  # Programs link it. The addon leaves these symbols open: the loader has opened the runtime of whatever libtorch it found,
  # and its file name differs between distributions of libtorch.
  target_link_libraries(selfedit_openmp INTERFACE
    $<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:selfedit_torch_gomp>)
else()
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(selfedit_openmp INTERFACE OpenMP::OpenMP_CXX)
endif()
find_package(Threads REQUIRED)
target_link_libraries(selfedit_openmp INTERFACE Threads::Threads)
