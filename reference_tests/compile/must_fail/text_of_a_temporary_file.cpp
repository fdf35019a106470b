// expect: use of deleted function|call to deleted|attempt to use a deleted
#include <dsv4/io/mapped_file.hpp>

#if defined(DSV4_MUST_FAIL)
std::string_view f() { return dsv4::io::mapped_file("x").text(); }
#else
std::string_view f(const dsv4::io::mapped_file& open) { return open.text(); }
#endif
