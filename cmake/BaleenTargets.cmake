# The three functions that make targets. (integration_test, in tests/integration, adds tests that need none.)

add_library(baleen_warnings INTERFACE)
target_compile_options(baleen_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers>)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(baleen_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wthread-safety>)
endif()
if(BALEEN_SANITIZE)
  add_compile_options(-fsanitize=${BALEEN_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${BALEEN_SANITIZE})
endif()

# baleen_library(common SOURCES a.cc DEPS absl::status): target baleen_common, alias baleen::common.
# `NAME` may contain a slash; it becomes an underscore (model/tokenizer -> baleen::model_tokenizer).
function(baleen_library NAME)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  string(REPLACE "/" "_" name ${NAME})
  if(A_SOURCES)
    add_library(baleen_${name} STATIC ${A_SOURCES})
    target_include_directories(baleen_${name} PUBLIC ${PROJECT_SOURCE_DIR})
    target_link_libraries(baleen_${name} PUBLIC ${A_DEPS} PRIVATE baleen_warnings)
  else()
    add_library(baleen_${name} INTERFACE)
    target_include_directories(baleen_${name} INTERFACE ${PROJECT_SOURCE_DIR})
    target_link_libraries(baleen_${name} INTERFACE ${A_DEPS})
  endif()
  add_library(baleen::${name} ALIAS baleen_${name})
endfunction()

# baleen_binary(baleen_router SOURCES main.cc DEPS baleen::router): lands in build/<preset>/bin.
function(baleen_binary NAME)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${NAME} ${A_SOURCES})
  target_link_libraries(${NAME} PRIVATE ${A_DEPS} baleen_warnings)
  set_target_properties(${NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
endfunction()

# baleen_test(kv_transfer/link_test DEPS baleen::kv_transfer LABELS grpc slow): tests/kv_transfer/link_test.cc
# with ctest label "kv_transfer-grpc-slow".
function(baleen_test PATH)
  cmake_parse_arguments(A "" "TIMEOUT" "DEPS;LABELS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  string(REPLACE "/" "_" name ${PATH})
  add_executable(${name} ${PROJECT_SOURCE_DIR}/tests/${PATH}.cc)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gmock_main baleen_warnings)
  target_compile_definitions(${name} PRIVATE BALEEN_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
    BALEEN_BINARY_DIR="${PROJECT_BINARY_DIR}")
  get_filename_component(module ${PATH} DIRECTORY)
  string(JOIN "-" label ${module} ${A_LABELS})
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES LABELS "${label}" TIMEOUT ${A_TIMEOUT})
endfunction()
