# Many ranks: libtorch's c10d, with Gloo where its headers are found (libtorch has the code, but not gloo's own headers, which
# c10d's include; Debian and Ubuntu: libgloo-dev). Without them the addon builds, and a group of ranks says what to install.
set(SELFEDIT_C10D_SOURCE "${CMAKE_CURRENT_SOURCE_DIR}/native/core/process_group.cc")
set(c10d "${SELFEDIT_TORCH_ROOT}/include/torch/csrc/distributed/c10d")
find_path(SELFEDIT_GLOO_INCLUDE NAMES gloo/rendezvous/store.h)
set(definitions)
set(SELFEDIT_HAS_C10D OFF)
if(EXISTS "${c10d}/TCPStore.hpp")
  set(SELFEDIT_HAS_C10D ON)
  list(APPEND definitions SELFEDIT_C10D)
  if(SELFEDIT_GLOO_INCLUDE AND EXISTS "${c10d}/ProcessGroupGloo.hpp")
    list(APPEND definitions SELFEDIT_GLOO USE_C10D_GLOO)
    message(STATUS "Many ranks: Gloo, headers in ${SELFEDIT_GLOO_INCLUDE}")
  else()
    message(STATUS "Many ranks on the CPU are not built: gloo/rendezvous/store.h was not found (apt-get install libgloo-dev)")
  endif()
endif()
set_source_files_properties(${SELFEDIT_C10D_SOURCE} PROPERTIES COMPILE_DEFINITIONS "${definitions}"
                            SKIP_PRECOMPILE_HEADERS ON)
# The system's own folder is searched anyway, and must not come before the compiler's.
if(SELFEDIT_GLOO_INCLUDE AND NOT SELFEDIT_GLOO_INCLUDE STREQUAL "/usr/include")
  set_source_files_properties(${SELFEDIT_C10D_SOURCE} PROPERTIES INCLUDE_DIRECTORIES "${SELFEDIT_GLOO_INCLUDE}")
endif()
