if(INTERLACE_SANITIZE)
  add_compile_options(-fsanitize=${INTERLACE_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${INTERLACE_SANITIZE})
endif()
