//! The names in pickles of numpy's arrays, and the values that they make of their arguments, whose form is checked.
//!
//! Source: `ndarray.__reduce__`, `ndarray.__setstate__` and `dtype.__reduce__` in numpy's documentation, and what numpy 1.16 and
//! 2.4 write: up to protocol 4 an empty array that is given a state, from protocol 5 on `_frombuffer`.

use super::value::{Array, Global, Heap, Id, Value};

/// numpy's own limit of the number of dimensions.
const MAX_DIMENSIONS: usize = 64;

/// Returns the global of a name, or `None` if it is not on the list. numpy 2 renamed `numpy.core`.
pub(crate) fn global(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::Reconstruct,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Global::FromBuffer,
        ("numpy", "ndarray") => Global::Ndarray,
        ("numpy", "dtype") => Global::ElementType,
        ("_codecs", "encode") => Global::Encode,
        _ => return None,
    })
}

/// Returns the value of `global(*arguments)`.
///
/// # Errors
/// The name cannot be called, or its arguments have another form.
pub(super) fn call(heap: &Heap<'_>, global: Global, arguments: &[Id]) -> Result<Value, String> {
    match (global, arguments) {
        // Shape and type are placeholders.
        (Global::Reconstruct, &[class, _, _]) if *heap.get(class) == Value::Global(Global::Ndarray) => {
            Ok(Value::Array(None))
        }
        (Global::ElementType, &[name, ..]) => match heap.get(name) {
            Value::Text(name) => Ok(Value::ElementType(name.clone())),
            _ => Err("its pickle has an element type without a name".into()),
        },
        (Global::FromBuffer, &[data, element, shape, order]) => {
            let fortran = match heap.text(order) {
                Some("C") => false,
                Some("F") => true,
                _ => return Err("its pickle has an array in an unknown order".into()),
            };
            checked(heap, shape, element, fortran, data).map(|array| Value::Array(Some(array)))
        }
        // This is how Python 3 writes bytes in protocols up to 2.
        (Global::Encode, &[text, encoding]) if heap.text(encoding) == Some("latin1") => match heap.get(text) {
            Value::Text(text) => Ok(Value::Latin1(text.clone())),
            _ => Err("its pickle encodes something that is no text".into()),
        },
        (global, arguments) => Err(format!("its pickle calls {global:?} with {} arguments", arguments.len())),
    }
}

/// Returns the array with the given state: `(version, shape, element type, Fortran order, bytes)`.
///
/// # Errors
/// The state has another form.
pub(super) fn array(heap: &Heap<'_>, state: Id) -> Result<Array, String> {
    let wrong = || "its pickle has an array in an unknown form".to_string();
    let Value::Tuple(state) = heap.get(state) else { return Err(wrong()) };
    let &[version, shape, element, fortran, data] = &state[..] else { return Err(wrong()) };
    let fortran = match *heap.get(fortran) {
        Value::Bool(fortran) => fortran,
        Value::Int(fortran) => fortran != 0,
        _ => return Err(wrong()),
    };
    match *heap.get(version) {
        Value::Int(1) => checked(heap, shape, element, fortran, data),
        _ => Err("its pickle has an array of a version that is not known".into()),
    }
}

fn checked(heap: &Heap<'_>, shape: Id, element: Id, fortran: bool, data: Id) -> Result<Array, String> {
    let Value::ElementType(element) = heap.get(element) else {
        return Err("its pickle has an array without element type".into());
    };
    let shape = match heap.get(shape) {
        Value::Tuple(sides) if sides.len() <= MAX_DIMENSIONS => sides
            .iter()
            .map(|&side| match *heap.get(side) {
                Value::Int(side) => {
                    usize::try_from(side).map_err(|_| format!("its pickle has an array with a side {side}"))
                }
                _ => Err("its pickle has an array with a side that is no whole number".into()),
            })
            .collect::<Result<Vec<usize>, String>>()?,
        _ => return Err(format!("its pickle has an array whose shape is no tuple of at most {MAX_DIMENSIONS}")),
    };
    if !matches!(heap.get(data), Value::Text(_) | Value::Bytes(_) | Value::Latin1(_)) {
        return Err("its pickle has an array whose elements are no bytes".into());
    }
    Ok(Array { element: element.clone(), shape, fortran, data })
}
