# Fails if an object of an instruction-set variant defines a weak symbol: the linker could choose its copy of a shared
# inline function for code that must run on any machine.
#   cmake -DNM=nm -DOBJECTS="a.o;b.o" -P isa_symbols.cmake
set(seen 0)
foreach(object IN LISTS OBJECTS)
  if(object MATCHES "_avx(2|512|512bf16)\\.cc\\.o$")
    math(EXPR seen "${seen} + 1")
    execute_process(COMMAND ${NM} -C ${object} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
    if(failed)
      message(FATAL_ERROR "${NM} could not read ${object}")
    endif()
    # A pointer to the exception personality is data, the same everywhere.
    string(REGEX REPLACE "[^\n]* V DW\\.ref\\.__gxx_personality_v0" "" symbols "${symbols}")
    string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
    if(weak)
      message(FATAL_ERROR "${object} shares code compiled for its instruction set:\n${weak}")
    endif()
  endif()
endforeach()
if(seen EQUAL 0)
  message(FATAL_ERROR "no variant objects among: ${OBJECTS}")
endif()
