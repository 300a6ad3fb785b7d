# The C types of framing.py, for Cython. Declarations only: framing.py has the code, and runs
# without this file, too.
#
# A length has at most 18 digits (_number). A position is at most the size of the data in memory.
# Tests read the attributes that are `readonly`.

cimport cython

cdef object _number(bytes digits)

cdef int _above(int mode, Py_ssize_t arguments) noexcept

@cython.locals(number=int, digit=int, at=Py_ssize_t)
cdef (Py_ssize_t, Py_ssize_t) _short_header(bytes data, Py_ssize_t pos, Py_ssize_t end) noexcept

@cython.final
cdef class RequestScanner:
    cdef public dict table
    cdef public object default
    cdef public object inspects
    cdef public dict known
    cdef public object window
    cdef public Py_ssize_t apart
    cdef Py_ssize_t _empty
    cdef object _limits
    cdef long long _arguments_limit
    cdef long long _bulk_limit
    cdef Py_ssize_t _name_limit
    cdef Py_ssize_t _whole_limit
    cdef bytes _buffer
    cdef Py_ssize_t _pos
    cdef readonly list _chunks
    cdef Py_ssize_t _size
    cdef Py_ssize_t _wanted
    cdef Py_ssize_t _seen
    cdef Py_ssize_t _unseen
    cdef object _seen_kind
    cdef int _mode
    cdef Py_ssize_t _arguments_left
    cdef Py_ssize_t _bulk_left
    cdef readonly list _taken
    cdef Py_ssize_t _inspected_size
    cdef Py_ssize_t _inspected_words

    cdef _join(self)
    cdef _release(self)
    @cython.locals(
        buffer=bytes, end=Py_ssize_t, start=Py_ssize_t, pos=Py_ssize_t, begin=Py_ssize_t, count=Py_ssize_t, remaining=Py_ssize_t,
        name_at=Py_ssize_t, after=Py_ssize_t, wanted=Py_ssize_t, name=bytes, view="const unsigned char *", kind=object,
        most=Py_ssize_t,
    )
    cdef _scan(self)
    @cython.locals(arguments=Py_ssize_t, at=Py_ssize_t, length=Py_ssize_t, name_at=Py_ssize_t, after=Py_ssize_t)
    cdef (Py_ssize_t, Py_ssize_t, Py_ssize_t) _head(self, bytes buffer, Py_ssize_t pos, Py_ssize_t end) except *
    @cython.locals(eol=Py_ssize_t)
    cdef (Py_ssize_t, Py_ssize_t) _any_array_header(self, bytes buffer, Py_ssize_t pos, Py_ssize_t end) except *
    @cython.locals(length=Py_ssize_t, data_at=Py_ssize_t, after=Py_ssize_t)
    cdef (Py_ssize_t, Py_ssize_t, Py_ssize_t) _pass(
        self, bytes buffer, Py_ssize_t begin, Py_ssize_t pos, Py_ssize_t remaining, Py_ssize_t end
    ) except *
    @cython.locals(length=Py_ssize_t, data_at=Py_ssize_t, stop=Py_ssize_t)
    cdef (int, Py_ssize_t) _by_first(
        self, int mode, bytes buffer, Py_ssize_t begin, Py_ssize_t after, Py_ssize_t remaining, Py_ssize_t end
    ) except *
    cdef bint _is_inspected(self, int mode, bytes first) except *
    cdef _begin(self, bytes name, int mode, Py_ssize_t remaining, Py_ssize_t after)
    @cython.locals(length=Py_ssize_t, data_at=Py_ssize_t)
    cdef (Py_ssize_t, Py_ssize_t) _bulk_header(self, bytes buffer, Py_ssize_t pos, Py_ssize_t end) except *
    @cython.locals(eol=Py_ssize_t)
    cdef (Py_ssize_t, Py_ssize_t) _any_bulk_header(self, bytes buffer, Py_ssize_t pos, Py_ssize_t end) except *
    @cython.locals(
        buffer=bytes, start=Py_ssize_t, pos=Py_ssize_t, end=Py_ssize_t, mode=int, step=Py_ssize_t, length=Py_ssize_t,
        data_at=Py_ssize_t, after=Py_ssize_t, too_much=bint,
    )
    cdef _continue(self)
    cdef _finish_inspecting(self)
    cdef _give_up_inspecting(self, Py_ssize_t data_at, Py_ssize_t length)
    cdef bint _pass_empty(self) except *
    @cython.locals(buffer=bytes, newline=Py_ssize_t)
    cdef _inline(self)

@cython.final
cdef class ReplyMeasurer:
    cdef public bint pushes
    cdef object _found_replica
    cdef long long _elements_limit
    cdef long long _lacking
    cdef long long _bulk_left
    cdef readonly bytes _header
    cdef bint _in_line
    cdef bint _after_cr

    @cython.locals(
        end=Py_ssize_t, done=Py_ssize_t, ended=bint, kind=int, length=Py_ssize_t, at=Py_ssize_t, after=Py_ssize_t, eol=Py_ssize_t,
        begin=Py_ssize_t,
    )
    cpdef tuple measure(self, bytes data, Py_ssize_t pos, Py_ssize_t want)
    @cython.locals(kind=int, eol=Py_ssize_t, length="long long", at=Py_ssize_t)
    cdef (Py_ssize_t, bint) _element(self, bytes data, Py_ssize_t pos, Py_ssize_t end) except *
    @cython.locals(elements="long long")
    cdef (Py_ssize_t, bint) _content(self, int kind, long long length, bytes data, Py_ssize_t pos, Py_ssize_t end) except *
    @cython.locals(held=Py_ssize_t, header=bytes, eol=Py_ssize_t)
    cdef (Py_ssize_t, bint) _resume(self, bytes data, Py_ssize_t pos, Py_ssize_t end) except *
    @cython.locals(remaining="long long", here=Py_ssize_t)
    cdef Py_ssize_t _pass_bulk(self, bytes data, Py_ssize_t pos, Py_ssize_t end) except -1
    @cython.locals(eol=Py_ssize_t)
    cdef Py_ssize_t _pass_line(self, bytes data, Py_ssize_t pos, Py_ssize_t end) except -1

cdef long long _length(bytes digits) except -2
