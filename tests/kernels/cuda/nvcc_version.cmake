# What cmake/Cuda.cmake does with an nvcc that is too old: nothing with AUTO, an error with ON.
#   cmake -DCUDA_CMAKE=cmake/Cuda.cmake -DFOLDER=scratch -P nvcc_version.cmake
if(DEFINED INTERLACE_CUDA)  # the inner run
  include(${CUDA_CMAKE})
  message(STATUS "has CUDA: ${INTERLACE_HAS_CUDA}")
  return()
endif()

file(MAKE_DIRECTORY ${FOLDER}/bin ${FOLDER}/lib64 ${FOLDER}/include)
file(WRITE ${FOLDER}/lib64/libcudart_static.a "")
file(WRITE ${FOLDER}/include/cublasLt.h "")

function(expect answer mode wanted_code wanted_text)
  file(WRITE ${FOLDER}/bin/nvcc "#!/bin/sh\n${answer}\n")
  file(CHMOD ${FOLDER}/bin/nvcc PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -DINTERLACE_CUDA=${mode} -DINTERLACE_NVCC=${FOLDER}/bin/nvcc -DCUDA_CMAKE=${CUDA_CMAKE}
            -P ${CMAKE_CURRENT_LIST_FILE}
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE err)
  string(REGEX REPLACE "[ \n]+" " " text "${out}${err}")
  if((wanted_code EQUAL 0 AND NOT code EQUAL 0) OR (NOT wanted_code EQUAL 0 AND code EQUAL 0))
    message(SEND_ERROR "${answer} with ${mode} ended with ${code}: ${text}")
  endif()
  if(NOT text MATCHES "${wanted_text}")
    message(SEND_ERROR "${answer} with ${mode} said: ${text}\nwanted: ${wanted_text}")
  endif()
endfunction()

set(old "echo Cuda compilation tools, release 11.8, V11.8.89")
set(new "echo Cuda compilation tools, release 12.4, V12.4.131")
expect("${old}" AUTO 0 "CUDA 11.8, device code needs 12.0 or newer.*has CUDA: FALSE")
expect("${old}" ON 1 "CUDA 11.8, device code needs 12.0 or newer")
expect("exit 1" AUTO 0 "CUDA unknown, device code needs 12.0.*has CUDA: FALSE")
expect("exit 1" ON 1 "CUDA unknown")
expect("${new}" AUTO 0 "12.4, device code for sm_90a.*has CUDA: TRUE")
expect("${new}" ON 0 "has CUDA: TRUE")
expect("${new}" OFF 0 "has CUDA: FALSE")
