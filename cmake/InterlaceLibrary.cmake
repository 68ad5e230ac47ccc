# interlace_library(NAME SRCS ... DEPS ... LIBS ...): the only way this tree makes a library.
#
#   NAME   target; its folder decides its layer
#   SRCS   sources, relative to the folder
#   DEPS   targets of this tree; a dependency that the layering forbids stops the configure step
#   LIBS   third-party targets
#
# interlace_executable and interlace_test take the same arguments. Tests may depend on anything.

# Which folders a folder may depend on (docs/architecture.md, "Who may include what").
set(INTERLACE_LAYER_common "")
set(INTERLACE_LAYER_kernels "common")
set(INTERLACE_LAYER_checkpoint "common")
set(INTERLACE_LAYER_text "common;checkpoint")
set(INTERLACE_LAYER_transport "common")
set(INTERLACE_LAYER_model "common;kernels;checkpoint")
set(INTERLACE_LAYER_kvstore "common;kernels;proto;transport")
set(INTERLACE_LAYER_proto "common;kvstore")
set(INTERLACE_LAYER_constraint "common;text;proto")
set(INTERLACE_LAYER_worker "common;kernels;model;kvstore;proto;transport;constraint")
set(INTERLACE_LAYER_coordinator "common;proto;text;checkpoint;kvstore;constraint")
set(INTERLACE_LAYER_client "common;proto")
set(INTERLACE_LAYER_bench "common;proto;client")                          # bench/serve knows servers by their protocols alone
set(INTERLACE_LAYER_study "bench;common;proto;kvstore;coordinator")       # bench/policy, bench/study: the scheduler without ranks
set(INTERLACE_LAYER_cli "study;bench;common;kernels;checkpoint;text;transport;model;kvstore;proto;constraint;worker;coordinator;client")
# What the executables of a folder may use besides: a main makes what its libraries know as an interface of common/ alone.
set(INTERLACE_MAIN_coordinator "transport")
# Targets of a folder that folders above may use although the rest of the folder is closed to them.
set(INTERLACE_PURE_coordinator_kvstore "kvstore_plan")                   # keys, residency plan and planner
set(INTERLACE_PURE_proto_kvstore "kvstore_plan")
set(INTERLACE_PURE_kvstore_proto "proto_kv")                              # the store's own wire contract

define_property(TARGET PROPERTY INTERLACE_FOLDER BRIEF_DOCS "layer" FULL_DOCS "top folder of the target")

function(interlace_check_layer target deps)
  get_target_property(folder ${target} INTERLACE_FOLDER)
  foreach(dep IN LISTS deps)
    if(NOT TARGET ${dep})
      message(FATAL_ERROR "${target}: DEPS names ${dep}, which is not a target (yet); order the folders in CMakeLists.txt")
    endif()
    get_target_property(dep_folder ${dep} INTERLACE_FOLDER)
    if(NOT dep_folder)
      message(FATAL_ERROR "${target}: DEPS takes targets of this tree; move ${dep} to LIBS")
    endif()
    if(NOT dep_folder STREQUAL folder)
      get_target_property(type ${target} TYPE)
      set(allowed ${INTERLACE_LAYER_${folder}})
      if(type STREQUAL "EXECUTABLE")
        list(APPEND allowed ${INTERLACE_MAIN_${folder}})
      endif()
      if(NOT dep_folder IN_LIST allowed)
        message(FATAL_ERROR "layering: ${target} (${folder}/) must not depend on ${dep} (${dep_folder}/); "
          "${folder}/ may use: ${allowed}")
      endif()
      if(DEFINED INTERLACE_PURE_${folder}_${dep_folder} AND NOT dep IN_LIST INTERLACE_PURE_${folder}_${dep_folder})
        message(FATAL_ERROR "layering: ${target} (${folder}/) may use only ${INTERLACE_PURE_${folder}_${dep_folder}} "
          "of ${dep_folder}/, not ${dep}")
      endif()
    endif()
  endforeach()
endfunction()

function(interlace_set_folder target)
  file(RELATIVE_PATH path ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  string(REGEX REPLACE "/.*" "" folder "${path}")
  if(path MATCHES "^bench/(policy|study)")
    set(folder study)
  endif()
  set_target_properties(${target} PROPERTIES INTERLACE_FOLDER ${folder})
endfunction()

# For those who build often (presets dev, asan, tsan), what most files include is read once. A file still names all that it uses:
# the other presets build without, and in kernels/, where code is made for more than the baseline, nothing is precompiled.
option(INTERLACE_PRECOMPILED "read the headers that most files include once" OFF)
# GCC 12 takes what it inlines of precompiled headers of the standard library for ours, and warns of impossible lengths there.
function(interlace_quiet)
  if(INTERLACE_PRECOMPILED)
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "-Wno-array-bounds;-Wno-stringop-overflow;-Wno-stringop-overread")
  endif()
endfunction()
set(INTERLACE_COMMON_HEADERS
  <algorithm> <array> <atomic> <cmath> <cstdint> <deque> <filesystem> <fstream> <functional> <map> <memory> <optional> <set> <string>
  <utility> <vector> <absl/container/flat_hash_map.h> <absl/container/inlined_vector.h> <absl/functional/any_invocable.h>
  <absl/status/statusor.h> <absl/strings/str_cat.h> <absl/strings/str_format.h> <absl/strings/str_join.h> <absl/strings/str_split.h>
  <absl/synchronization/mutex.h> <absl/time/time.h> <absl/types/span.h>)
function(interlace_precompile target kind)
  if(NOT INTERLACE_PRECOMPILED)
    return()
  endif()
  if(NOT TARGET interlace_precompiled_${kind})
    add_library(interlace_precompiled_${kind} OBJECT ${PROJECT_SOURCE_DIR}/cmake/precompiled.cc)
    target_link_libraries(interlace_precompiled_${kind} PRIVATE absl::flat_hash_map absl::inlined_vector absl::any_invocable
      absl::statusor absl::strings absl::str_format absl::synchronization absl::time absl::span Threads::Threads)
    target_compile_options(interlace_precompiled_${kind} PRIVATE ${INTERLACE_WARNINGS})
    target_precompile_headers(interlace_precompiled_${kind} PRIVATE ${INTERLACE_COMMON_HEADERS})
    if(kind STREQUAL "test")
      # As executables are compiled, and not as an object library is by itself.
      set_target_properties(interlace_precompiled_test PROPERTIES POSITION_INDEPENDENT_CODE OFF)
      target_compile_options(interlace_precompiled_test PRIVATE -fPIE ${INTERLACE_TEST_OPTIONS})
      target_link_libraries(interlace_precompiled_test PRIVATE GTest::gmock GTest::gtest)
      target_precompile_headers(interlace_precompiled_test PRIVATE <gmock/gmock.h> <gtest/gtest.h>)
    endif()
  endif()
  target_precompile_headers(${target} REUSE_FROM interlace_precompiled_${kind})
endfunction()

function(interlace_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_SRCS})
  interlace_set_folder(${name})
  interlace_check_layer(${name} "${ARG_DEPS}")
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} ${ARG_LIBS})
  target_compile_options(${name} PRIVATE ${INTERLACE_WARNINGS})
  get_target_property(folder ${name} INTERLACE_FOLDER)
  if(NOT folder STREQUAL "kernels")
    interlace_precompile(${name} library)
  endif()
endfunction()

function(interlace_executable name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  interlace_set_folder(${name})
  interlace_check_layer(${name} "${ARG_DEPS}")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} ${ARG_LIBS})
  target_compile_options(${name} PRIVATE ${INTERLACE_WARNINGS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
endfunction()

# interlace_test(name SRCS ... DEPS ... LABELS ...): a GoogleTest binary; ctest runs it with 120 s unless TIMEOUT says more.
# Its own files are compiled with INTERLACE_TEST_OPTIONS (-O1 in preset dev, which takes three quarters of the time), unless FAST
# says that their speed counts.
set(INTERLACE_TEST_OPTIONS "" CACHE STRING "how files of tests are compiled, behind the options of all files")
function(interlace_test name)
  cmake_parse_arguments(ARG "FAST" "TIMEOUT" "SRCS;DEPS;LIBS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} ${ARG_LIBS} GTest::gmock GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(${name} PRIVATE ${INTERLACE_WARNINGS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  if(NOT ARG_FAST)
    target_compile_options(${name} PRIVATE ${INTERLACE_TEST_OPTIONS})
    interlace_precompile(${name} test)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
