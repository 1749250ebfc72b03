/* Python as a service under Wine: services inherit handles there that are none, which Python takes
   for files. Each becomes the device NUL, in the C runtime that Python uses. */
#include <windows.h>
int wmain(int argc, wchar_t **argv)
{
    HMODULE runtime = LoadLibraryW(L"ucrtbase.dll");
    int (*open)(const char *, int, ...) = (void *)GetProcAddress(runtime, "_open");
    int (*dup2)(int, int) = (void *)GetProcAddress(runtime, "_dup2");
    for (int fd = 0; fd < 3; fd++)
        if (GetFileType(GetStdHandle(STD_INPUT_HANDLE - fd)) == FILE_TYPE_UNKNOWN)
            dup2(open("NUL", 2), fd);
    HMODULE python = LoadLibraryW(L"python313.dll");
    int (*run)(int, wchar_t **) = python ? (void *)GetProcAddress(python, "Py_Main") : NULL;
    return run ? run(argc, argv) : 120;
}
