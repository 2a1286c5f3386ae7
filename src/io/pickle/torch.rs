//! The values that the names in torch's checkpoints ([`torch_names`](super::torch_names)) make of their arguments, whose form is
//! checked.
//!
//! Source: the functions of these names in torch's `_utils.py`, `_tensor.py` and `serialization.py`.

use super::value::{Element, Global, Heap, Id, Storage, Tensor, Value};

/// torch's own limit of the number of dimensions.
const MAX_DIMENSIONS: usize = 64;

/// Returns the value of `global(*arguments)`.
///
/// # Errors
/// The name cannot be called, or its arguments have another form.
pub(super) fn call(heap: &Heap<'_>, global: Global, arguments: &[Id]) -> Result<Value, String> {
    match (global, arguments) {
        (Global::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
        (Global::OrderedDict, &[items]) => ordered_dict(heap, items),
        (Global::DefaultDict, [] | [_]) => Ok(Value::Dict(Vec::new())),
        (Global::RebuildTensor, &[storage, offset, shape, strides, _, _, metadata, ..]) if changes(heap, metadata) => {
            tensor(heap, storage, None, offset, [shape, strides]).map(|_| Value::OtherTensor("conjugated or negated"))
        }
        (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
            tensor(heap, storage, None, offset, [shape, strides]).map(Value::Tensor)
        }
        (Global::RebuildTyped, &[storage, offset, shape, strides, _, _, dtype, ..]) => match *heap.get(dtype) {
            Value::Global(Global::Dtype(element)) => {
                tensor(heap, storage, Some(element), offset, [shape, strides]).map(Value::Tensor)
            }
            _ => Err("its pickle makes a tensor of an unknown type".into()),
        },
        (Global::RebuildSame, []) => Ok(Value::Plain),
        (Global::RebuildSame, &[data, ..]) => match heap.get(data) {
            tensor @ (Value::Tensor(_) | Value::OtherTensor(_)) => Ok(tensor.clone()),
            _ => Err("its pickle makes a parameter of something that is no tensor".into()),
        },
        (Global::RebuildFromType, &[function, _, arguments, ..]) => match (heap.get(function), heap.get(arguments)) {
            // Not by itself: the recursion could be as deep as the file is long.
            (&Value::Global(function), Value::Tuple(arguments)) if function != Global::RebuildFromType => {
                call(heap, function, arguments)
            }
            _ => Err("its pickle makes a tensor by something that is no function of torch".into()),
        },
        (Global::RebuildOther(what), _) => Ok(Value::OtherTensor(what)),
        (Global::Module, _) => Ok(Value::Module(None)),
        (Global::Size, &[sides]) => match heap.get(sides) {
            Value::Tuple(sides) | Value::List(sides) if sides.len() <= MAX_DIMENSIONS => {
                Ok(Value::Tuple(sides.clone()))
            }
            _ => Err("its pickle makes a torch.Size of something that is no tuple".into()),
        },
        (Global::Plain, _) => Ok(Value::Plain),
        (global, arguments) => Err(format!("its pickle calls {global:?} with {} arguments", arguments.len())),
    }
}

/// Returns the value of `OrderedDict([[key, value], ...])`, as Python 2 wrote it.
fn ordered_dict(heap: &Heap<'_>, items: Id) -> Result<Value, String> {
    let wrong = || "its pickle makes an OrderedDict of items that are no pairs".to_string();
    let Value::List(items) = heap.get(items) else { return Err(wrong()) };
    let pair = |&item: &Id| match heap.get(item) {
        Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
        _ => Err(wrong()),
    };
    items.iter().map(pair).collect::<Result<_, _>>().map(Value::Dict)
}

/// Returns whether a tensor's metadata mean that its values differ from those in its storage.
fn changes(heap: &Heap<'_>, metadata: Id) -> bool {
    let Value::Dict(entries) = heap.get(metadata) else { return false };
    entries.iter().any(|&(_, value)| *heap.get(value) == Value::Bool(true))
}

/// Returns a view of `storage`; its elements have the storage's type unless `element` is another.
fn tensor(
    heap: &Heap<'_>,
    storage: Id,
    element: Option<Element>,
    offset: Id,
    sizes: [Id; 2],
) -> Result<Tensor, String> {
    let Value::Storage(stored) = heap.get(storage) else {
        return Err("its pickle makes a tensor of something that is no storage".into());
    };
    let element = element.unwrap_or(stored.element);
    let offset = size(heap, offset)?;
    let [shape, strides] = sizes.map(|id| match heap.get(id) {
        Value::Tuple(items) | Value::List(items) if items.len() <= MAX_DIMENSIONS => {
            items.iter().map(|&item| size(heap, item)).collect::<Result<Vec<usize>, _>>()
        }
        _ => Err(format!("its pickle makes a tensor whose sizes are no tuple of at most {MAX_DIMENSIONS}")),
    });
    Ok(Tensor { storage, element, offset, shape: shape?, strides: strides? })
}

/// Returns the storage of a persistent id: `("storage", type, key, device, length)`, and in legacy files a view, which is ignored.
///
/// # Errors
/// The id has another form.
pub(super) fn storage(heap: &Heap<'_>, id: Id) -> Result<Storage, String> {
    let wrong = || "its pickle refers to a storage in an unknown form".to_string();
    let Value::Tuple(parts) = heap.get(id) else { return Err(wrong()) };
    let (kind, class, key, len) = match parts[..] {
        [kind, class, key, _, len] => (kind, class, key, len),
        [kind, class, key, _, len, view] if *heap.get(view) == Value::None => (kind, class, key, len),
        _ => return Err(wrong()),
    };
    match (heap.text(kind), heap.get(class), heap.get(key)) {
        (Some("storage"), &Value::Global(Global::Storage(element)), Value::Text(key)) => {
            Ok(Storage { element, key: key.clone(), len: size(heap, len)? })
        }
        _ => Err(wrong()),
    }
}

fn size(heap: &Heap<'_>, id: Id) -> Result<usize, String> {
    match heap.get(id) {
        &Value::Int(n) => usize::try_from(n).map_err(|_| format!("its pickle has a tensor with the negative size {n}")),
        Value::BigInt(_) => Err("its pickle has a tensor with a size of more than 64 bits".into()),
        _ => Err("its pickle has a tensor with a size that is no whole number".into()),
    }
}
