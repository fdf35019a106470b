// SPDX-License-Identifier: MIT
#include <dsv4/golden/report/report_html_impl.hpp>
#include <dsv4/golden/report/report_json_impl.hpp>
#include <dsv4/golden/report/report_text_impl.hpp>
