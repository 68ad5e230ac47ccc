# The CUDA toolkit. INTERLACE_HAS_CUDA says whether the device side is built; everything else builds without it.
#
# The device code is compiled by a command of its own rather than as a CMake language: CMake 3.25 does not know sm_90a,
# and the tree's compile options are the host compiler's.
set(INTERLACE_HAS_CUDA FALSE)
if(INTERLACE_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off (INTERLACE_CUDA=OFF)")
  return()
endif()

find_program(INTERLACE_NVCC nvcc PATHS /usr/local/cuda/bin $ENV{CUDA_HOME}/bin)
if(NOT INTERLACE_NVCC)
  if(INTERLACE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "INTERLACE_CUDA=ON, but nvcc was not found; set CUDA_HOME or -DINTERLACE_NVCC=/path/to/nvcc")
  endif()
  message(STATUS "CUDA: nvcc not found, the build has no device code (INTERLACE_CUDA=AUTO)")
  return()
endif()

# C++20 in device code and sm_90a came with CUDA 12.
set(least_nvcc 12.0)
execute_process(COMMAND ${INTERLACE_NVCC} --version OUTPUT_VARIABLE nvcc_says ERROR_QUIET)
if("${nvcc_says}" MATCHES "release ([0-9]+\\.[0-9]+)")
  set(INTERLACE_NVCC_VERSION ${CMAKE_MATCH_1})
else()
  set(INTERLACE_NVCC_VERSION unknown)
endif()
if(INTERLACE_NVCC_VERSION STREQUAL "unknown" OR INTERLACE_NVCC_VERSION VERSION_LESS least_nvcc)
  set(nvcc_fault "${INTERLACE_NVCC} is of CUDA ${INTERLACE_NVCC_VERSION}, device code needs ${least_nvcc} or newer")
  if(INTERLACE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "INTERLACE_CUDA=ON: ${nvcc_fault}; set -DINTERLACE_NVCC=/path/to/nvcc")
  endif()
  message(STATUS "CUDA: ${nvcc_fault}; the build has no device code (INTERLACE_CUDA=AUTO)")
  return()
endif()

get_filename_component(nvcc_real "${INTERLACE_NVCC}" REALPATH)
get_filename_component(INTERLACE_CUDA_ROOT "${nvcc_real}" DIRECTORY)
get_filename_component(INTERLACE_CUDA_ROOT "${INTERLACE_CUDA_ROOT}" DIRECTORY)
find_library(INTERLACE_CUDART cudart_static
  PATHS ${INTERLACE_CUDA_ROOT}/lib64 ${INTERLACE_CUDA_ROOT}/targets/x86_64-linux/lib NO_DEFAULT_PATH)
find_path(INTERLACE_CUDA_INCLUDE cublasLt.h
  PATHS ${INTERLACE_CUDA_ROOT}/include ${INTERLACE_CUDA_ROOT}/targets/x86_64-linux/include NO_DEFAULT_PATH)
if(NOT INTERLACE_CUDART OR NOT INTERLACE_CUDA_INCLUDE)
  if(INTERLACE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "INTERLACE_CUDA=ON: ${INTERLACE_CUDA_ROOT} lacks libcudart_static.a or cublasLt.h")
  endif()
  message(STATUS "CUDA: ${INTERLACE_CUDA_ROOT} lacks libcudart_static.a or cublasLt.h, no device code")
  return()
endif()
set(INTERLACE_HAS_CUDA TRUE)
message(STATUS "CUDA: ${INTERLACE_NVCC} ${INTERLACE_NVCC_VERSION}, device code for sm_90a")

# cuda_object(OUT SOURCE): SOURCE compiled by nvcc for sm_90a; OUT is the object file. Multiply-adds are never fused on
# their own, as in the other kernels.
function(cuda_object out source)
  get_filename_component(name ${source} NAME)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${INTERLACE_NVCC} -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object} -MD -MF ${object}.d
            -ccbin ${CMAKE_CXX_COMPILER} -std=c++20 -O3 -lineinfo --fmad=false
            -gencode arch=compute_90a,code=sm_90a -Werror all-warnings
            -Xcompiler -Wall,-Wextra,-Wno-unused-parameter,-Wno-missing-field-initializers,-Werror,-fPIC
            -I${PROJECT_SOURCE_DIR}
    DEPENDS ${source}
    DEPFILE ${object}.d
    COMMENT "nvcc ${name} (sm_90a)"
    VERBATIM)
  set(${out} ${object} PARENT_SCOPE)
endfunction()
